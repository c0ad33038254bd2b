"""The report in a real Chromium, from disk: on phone, desktop and paper, by keyboard, asking nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser import DESKTOP, PHONE, inspect, open_browser, serious, window
from command_line import APP
from finished_run import write_result, write_run
from playwright.sync_api import Browser, Page
from typer.testing import CliRunner

pytestmark = pytest.mark.end_to_end
#: A4 at 96 dpi less Chromium's own margins of 1 cm.
PAPER = {"width": 718, "height": 1047}
KINDS = ("linear", "by-hand", "simulation-by-hand")
browser = pytest.fixture(scope="module")(open_browser)


def _call(*arguments: object) -> str:
    said = CliRunner().invoke(APP, [str(each) for each in arguments])
    assert said.exit_code == 0, said.output
    return said.output


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of a real run, and of one by hand with failures and planted texts as both observers have it."""
    root = tmp_path_factory.mktemp("reports")
    found = {}
    for kind in KINDS:
        out = root / kind
        out.mkdir()
        if kind.endswith("by-hand"):
            write_result(write_run(out), simulation=kind != "by-hand")
        else:
            _call("run", kind, "--out", out)
        (run,) = (folder for folder in out.iterdir() if (folder / "result.json").is_file())
        _call("report", run)
        found[kind] = run / "report.html"
    return found


def _wider(page: Page) -> list[str]:
    """Return what ends right of the sheet or is cut off by a box around it."""
    found: list[str] = page.evaluate(
        """[...document.querySelectorAll('main *')].filter(it => {
            const box = it.getBoundingClientRect();
            return box.right > innerWidth + 1 || (it.matches('.scroll') && it.scrollWidth > it.clientWidth + 1);
        }).map(it => it.outerHTML.slice(0, 200))"""
    )
    return found


def _broken_words(page: Page) -> list[str]:
    """Return the words and numbers of tables, hashes aside, that go over two lines."""
    found: list[str] = page.evaluate(
        """[...document.querySelectorAll('td, th')].flatMap(cell => {
            const text = cell.firstChild;
            if (!text) return [];
            const words = text.data.matchAll(/[-+]?[0-9][0-9.,]*e[-+]?[0-9]+|(?<![^\\s-])[^\\s-]{1,24}(?![^\\s-])/g);
            return [...words].filter(word => {
                const range = document.createRange();
                range.setStart(text, word.index);
                range.setEnd(text, word.index + word[0].length);
                return range.getClientRects().length > 1;
            }).map(word => word[0]);
        })"""
    )
    return found


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (DESKTOP, "dark")], ids=["phone", "desktop"])
def test_a_report_on_a_screen(size: Any, scheme: str, browser: Browser, reports: dict[str, Path]) -> None:
    grounds = set()
    for kind, file in reports.items():
        with window(browser, size, scheme) as opened:
            opened.page.goto(file.as_uri())
            inspect(opened.page, kind)
            assert _broken_words(opened.page) == [], kind
            grounds.add(opened.page.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert opened.requests == [file.as_uri()]
    assert grounds == {"rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 28)"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_on_paper(scheme: str, browser: Browser, reports: dict[str, Path]) -> None:
    for kind, file in reports.items():
        with window(browser, PAPER, scheme) as opened:
            page = opened.page
            page.goto(file.as_uri())
            page.emulate_media(media="print", color_scheme=scheme)  # type: ignore[arg-type]
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
            assert _wider(page) == [], kind
            assert _broken_words(page) == [], kind
            assert serious(page) == [], kind  # the contrast of ink on white, too
            assert page.pdf(format="A4").startswith(b"%PDF")
            assert opened.requests == [file.as_uri()]
