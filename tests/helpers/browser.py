"""Looking at a page in Debian's Chromium: what it says, asks for and shows, and whom it leaves out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def open_browser() -> Iterator[Browser]:
    """Debian's Chromium: Playwright's own build is not downloaded."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("wanted Debian's chromium, got none; `make browser` installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Window:
    """A browser window whose console and requests are kept."""

    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def hosts(self) -> set[str]:
        """Whom the page asked."""
        return {f"{urlsplit(url).scheme}://{urlsplit(url).netloc}" for url in self.requests}


@contextmanager
def window(browser: Browser, size: Any, scheme: Any) -> Iterator[Window]:
    """Open a window that complains of nothing until it closes."""
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    opened = Window(context, context.new_page())
    page, complaints = opened.page, opened.complaints
    page.on("console", lambda message: message.type in {"error", "warning"} and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: opened.requests.append(request.url))
    try:
        yield opened
        assert complaints == []
    finally:
        context.close()


def by_keyboard(page: Page) -> int:
    """Walk through the page with Tab; return how many stops had no visible sign of the focus, or were missed."""
    page.evaluate("document.activeElement.blur()")
    wanted = page.evaluate("document.querySelectorAll('a[href], button, input, summary, [tabindex=\"0\"]').length")
    seen = 0
    for _ in range(wanted):
        page.keyboard.press("Tab")
        seen += page.evaluate(
            "(() => { const it = document.activeElement;"
            " return it !== document.body && getComputedStyle(it).outlineStyle === 'solid'; })()"
        )
    return wanted - seen


def serious(page: Page) -> list[tuple[str, str]]:
    """Return what axe-core calls serious or critical: the rule and where it is broken first."""
    found = Axe().run(page).response["violations"]
    return [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in {"serious", "critical"}]


def inspect(page: Page, where: str) -> None:
    """Look at the open page: nothing serious for axe, nothing wider than the window, everything reached by keyboard."""
    assert serious(page) == [], where
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, where
    assert by_keyboard(page) == 0, where
