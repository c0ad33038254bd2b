"""Every page as it was last looked at: three widths, light and dark, of a finished, a failed and a resumed run, of a
used-up budget and of a report.

A page that changed on purpose: `CONSORTIA_PICTURES=1 pytest tests/consortia/test_pictures.py` writes the pictures
anew; look at each before it is committed. They are half as large as the page and have few colours.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import open_browser, serious
from dashboard_pages import TOKEN
from pictured_runs import IDS, write_home, write_runs
from PIL import Image, ImageChops, ImageFilter
from playwright.sync_api import Browser, Page, expect

from consortia.dashboard.app import View, build
from consortia.dashboard.coordinator import CoordinatorView
from consortia.dashboard.owner import OwnerView
from consortia.dashboard.serve import listen, server
from consortia.reports.page.facts import gather
from consortia.reports.page.render import write

pytestmark = pytest.mark.end_to_end
PICTURES = Path(__file__).resolve().parents[1] / "pictures"
WIDTHS, HEIGHT, SCHEMES = (390, 820, 1280), 1400, ("light", "dark")
PAGES = ("runs", "finished", "failed", "resumed", "exhausted", "receipts", "report")
#: Share of pixels that may be clearly other than in the picture: fonts differ a little, a page that changed by more.
_MOST, _CLEARLY = 0.012, 60
browser = pytest.fixture(scope="module")(open_browser)


def _served(view: View) -> Iterator[str]:
    listener = listen("127.0.0.1", 0)
    made = server(build(view, TOKEN))
    thread = threading.Thread(target=made.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        made.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The address of each page."""
    root = tmp_path_factory.mktemp("pictures")
    write_runs(root / "runs")
    (report, _) = write(gather(root / "runs" / IDS["finished"]), root)
    coordinator, own = _served(CoordinatorView(root / "runs", None)), _served(OwnerView.of(write_home(root), None))
    runs, home = next(coordinator), next(own)
    yield {
        "runs": f"{runs}/",
        **{name: f"{runs}/runs/{IDS[name]}" for name in ("finished", "failed", "resumed")},
        "exhausted": f"{home}/",
        "receipts": f"{home}/runs",
        "report": report.as_uri(),
    }
    for each in (coordinator, own):
        next(each, None)


def _shown(page: Page, address: str) -> None:
    """Open a page, and wait until what is counted in the background stands on it."""
    page.goto(address)
    for waiting in ("not counted yet", "being counted"):
        expect(page.get_by_text(waiting)).to_have_count(0, timeout=60_000)


def _picture(page: Page) -> Image.Image:
    file = page.screenshot(animations="disabled")
    with Image.open(io.BytesIO(file)) as opened:
        return opened.convert("RGB").resize((opened.width // 2, opened.height // 2), Image.Resampling.LANCZOS)


def differs(one: Image.Image, other: Image.Image) -> float:
    """Return the share of pixels that are clearly different once both are blurred a little."""
    if one.size != other.size:
        return 1.0
    soft = [each.convert("L").filter(ImageFilter.GaussianBlur(2)) for each in (one, other)]
    found = ImageChops.difference(*soft).histogram()
    return sum(found[_CLEARLY:]) / sum(found)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_looks_as_it_did(name: str, browser: Browser, places: dict[str, str]) -> None:
    wrong = {}
    for scheme in SCHEMES:
        for width in WIDTHS:
            context = browser.new_context(
                viewport={"width": width, "height": HEIGHT},
                color_scheme=scheme,  # type: ignore[arg-type]
                reduced_motion="reduce",
                extra_http_headers={"Authorization": f"Bearer {TOKEN}"} if name != "report" else {},
            )
            page = context.new_page()
            _shown(page, places[name])
            if (width, scheme) in {(390, "light"), (1280, "dark")}:
                assert serious(page) == [], (name, width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
            taken, file = _picture(page), PICTURES / f"{name}-{width}-{scheme}.png"
            context.close()
            if os.environ.get("CONSORTIA_PICTURES"):
                PICTURES.mkdir(exist_ok=True)
                taken.quantize(32).save(file, optimize=True)
            with Image.open(file) as kept:
                share = differs(taken, kept.convert("RGB"))
            if share > _MOST:
                wrong[file.name] = share
    assert wrong == {}


def test_a_changed_page_is_seen(browser: Browser, places: dict[str, str]) -> None:
    context: Any = browser.new_context(
        viewport={"width": 1280, "height": HEIGHT}, extra_http_headers={"Authorization": f"Bearer {TOKEN}"}
    )
    page = context.new_page()
    _shown(page, places["finished"])
    before = _picture(page)
    assert differs(before, _picture(page)) == 0
    page.evaluate("document.querySelector('.rows').remove()")
    assert differs(before, _picture(page)) > _MOST
    context.close()
