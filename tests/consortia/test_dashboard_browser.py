"""The dashboard in a real Chromium: a run arrives without reload, every page at phone and desktop width, by keyboard,
without an error in the console, without a request to another host, without a serious finding of axe-core.

`CONSORTIA_SCREENSHOTS=docs/images` also writes the README's pictures.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from browser import DESKTOP, PHONE, inspect, open_browser, window
from dashboard_pages import TOKEN
from PIL import Image
from playwright.sync_api import Browser, Page, expect

pytestmark = pytest.mark.end_to_end
ROOT = Path(__file__).resolve().parents[2]
ROUNDS, ROWS = 15, 2000
expect.set_options(timeout=60_000)  # a busy machine draws late
DECIDED = re.compile("Joining (paid|did not pay)")
SHOTS = os.environ.get("CONSORTIA_SCREENSHOTS")


def consortia(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Start a command of this installation."""
    environment = {**os.environ, "CONSORTIA_DASHBOARD_TOKEN": TOKEN, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}"}
    command = [sys.executable, "-P", "-m", "consortia.cli", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE)


def hold_after_a_round(run: subprocess.Popen[str], runs: Path) -> None:
    """Stop the run's process once it has told of a round: however slow the browser, rounds are left to come."""
    deadline = time.monotonic() + 300
    while not any('"event": "round"' in file.read_text() for file in runs.glob("*/events.jsonl")):
        assert run.poll() is None, "the run ended before a round was seen"
        assert time.monotonic() < deadline, "no round within five minutes"
        time.sleep(0.005)
    run.send_signal(signal.SIGSTOP)


@dataclass
class Server:
    """One dashboard in a process of its own."""

    process: subprocess.Popen[str]
    url: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three banks with 2,000 synthetic rows each that release metrics with noise after every round."""
    folder = tmp_path_factory.mktemp("browser")
    source, target = ROOT / "scenarios", folder / "scenarios"
    shutil.copytree(source / "policies" / "banks-network", target / "policies" / "banks-network")
    scenario = tomllib.loads((source / "banks-network.toml").read_text())
    scenario["roster"] = [{**participant, "units": ROWS} for participant in scenario["roster"][:3]]
    scenario["contract"] |= {
        "rounds": ROUNDS, "releases": ["update", "metrics"], "evaluation": {"metrics": "dp", "every": 1},
    }  # fmt: skip
    (target / "banks-network.toml").write_text(tomli_w.dumps(scenario))
    for file in (target / "policies" / "banks-network").glob("*.toml"):
        policy = tomllib.loads(file.read_text())
        policy["dataset"]["credit"] |= {"source": f"synthetic:{ROWS}", "declared_units": ROWS}
        policy["allow"]["releases"] = ["update", "metrics"]
        policy["budget"]["evaluation"] = {key: policy["budget"][key] for key in ("run", "lifetime")}
        file.write_text(tomli_w.dumps(policy))
    (folder / "runs").mkdir()
    return folder


def serve(folder: Path, *arguments: str) -> Iterator[Server]:
    process = consortia("dashboard", "--port", "0", *arguments, folder=folder)
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert TOKEN not in process.stdout.readline()
    try:
        yield Server(process, url.rstrip("/"))
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@pytest.fixture(scope="module")
def coordinator(folder: Path) -> Iterator[Server]:
    yield from serve(folder, "--runs", "runs")


browser = pytest.fixture(scope="module")(open_browser)


@dataclass
class Watched:
    """A window at a dashboard."""

    page: Page
    server: Server

    def sign_in(self) -> None:
        """Sign in with the keyboard alone."""
        self.page.goto(self.server.url)
        expect(self.page).to_have_url(re.compile("/sign-in$"))
        self.page.keyboard.press("Tab")
        self.page.keyboard.type(TOKEN)
        self.page.keyboard.press("Enter")
        expect(self.page).to_have_url(self.server.url + "/")

    def shoot(self, name: str, height: int = 700) -> None:
        """Write a picture for the README, where that was asked for."""
        if SHOTS:
            size = self.page.viewport_size
            assert size is not None
            file = ROOT / SHOTS / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            self.page.evaluate("window.scrollTo(0, 0)")
            self.page.screenshot(path=file, clip={"x": 0, "y": 0, "width": size["width"], "height": height})
            with Image.open(file) as picture:
                picture.convert("RGB").quantize(64).save(file, optimize=True)


def watch(browser: Browser, server: Server, size: Any, scheme: Any) -> Iterator[Watched]:
    with window(browser, size, scheme) as opened:
        yield Watched(opened.page, server)
        assert opened.hosts == {server.url}


def paths(watched: Watched) -> list[str]:
    """Return every page of the site, as its links name them; one participant of a run stands for all."""
    found: list[str] = []
    open_paths = ["/"]
    while open_paths:
        path = open_paths.pop(0)
        if path in found or (path.count("/") == 3 and any(other.count("/") == 3 for other in found)):
            continue
        found.append(path)
        watched.page.goto(watched.server.url + path)
        open_paths += watched.page.eval_on_selector_all("a[href^='/']", "all => all.map(a => a.getAttribute('href'))")
    return found


def look_at(watched: Watched, where: list[str]) -> None:
    """Inspect every page."""
    for path in where:
        watched.page.goto(watched.server.url + path)
        inspect(watched.page, path)


@pytest.fixture(scope="module")
def finished(browser: Browser, coordinator: Server, folder: Path) -> str:
    """A real run, watched from an empty page to its end without one reload; returns its id."""
    for watched in watch(browser, coordinator, DESKTOP, "light"):
        page = watched.page
        watched.sign_in()
        expect(page.get_by_text("No run yet")).to_be_visible()
        page.evaluate("window.notReloaded = true")
        run = consortia("run", "scenarios/banks-network.toml", folder=folder)
        try:
            hold_after_a_round(run, folder / "runs")
            title = tomllib.loads((folder / "scenarios" / "banks-network.toml").read_text())["title"]
            link = page.get_by_role("link", name=title)
            expect(link).to_be_visible(timeout=240_000)
            assert page.evaluate("window.notReloaded") is True
            (name,) = (each.name for each in (folder / "runs").iterdir() if each.is_dir())
            link.focus()
            page.keyboard.press("Enter")
            expect(page.get_by_role("heading", level=1)).to_have_text(title)
            page.evaluate("window.notReloaded = true")
            rounds = page.locator(".facts progress")
            expect(rounds).not_to_have_attribute("value", "0", timeout=240_000)
            before = rounds.get_attribute("value")
            expect(page.locator(".status")).to_have_text("running")
            page.locator("#participant-1").focus()
            run.send_signal(signal.SIGCONT)
            expect(rounds).not_to_have_attribute("value", before or "", timeout=240_000)
            assert page.evaluate("document.activeElement.id") == "participant-1"  # the focus stays where it was
            assert page.evaluate("window.notReloaded") is True
            expect(page.locator("#said")).to_have_text(re.compile("running, round"))
            expect(page.locator(".status")).to_have_text("completed", timeout=240_000)
            expect(page.locator("svg.gauge").first).to_be_visible(timeout=120_000)
            expect(page.locator(".decision")).to_contain_text(DECIDED, timeout=240_000)
            expect(page.locator(".rows .name")).to_have_count(3)  # everybody's net gain
            assert page.evaluate("window.notReloaded") is True
        finally:
            run.send_signal(signal.SIGCONT)
            run.communicate(timeout=120)
        assert run.returncode == 0
    return name


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (DESKTOP, "dark")], ids=["phone", "desktop"])
def test_every_page_of_the_coordinator(
    size: Any, scheme: str, browser: Browser, coordinator: Server, finished: str
) -> None:
    for watched in watch(browser, coordinator, size, scheme):
        watched.sign_in()
        where = paths(watched)
        assert {*where} == {"/", "/participants", "/compare", f"/runs/{finished}", f"/runs/{finished}/new-car"}
        look_at(watched, [*where, f"/compare?run={finished}"])
        watched.page.goto(f"{coordinator.url}/runs/{finished}/new-car")
        expect(watched.page.locator("svg.chart .band").first).to_be_visible()  # intervals are drawn
        if scheme == "light":
            watched.shoot("dashboard-phone", 844)


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "dark"), (DESKTOP, "light")], ids=["phone", "desktop"])
def test_every_page_of_a_participants_own_view(
    size: Any, scheme: str, browser: Browser, folder: Path, finished: str
) -> None:
    home = folder / "runs" / finished / "participants" / "new-car"
    for server in serve(folder, "--home", str(home)):
        for watched in watch(browser, server, size, scheme):
            watched.sign_in()
            row = watched.page.get_by_role("rowheader", name=f"run {finished}", exact=True)
            expect(row).to_be_visible(timeout=120_000)
            where = paths(watched)
            assert {*where} == {"/", "/ledger", "/runs", "/policy", f"/runs/{finished}"}
            look_at(watched, where)
            watched.page.goto(f"{server.url}/runs/{finished}")
            expect(watched.page.locator(".decision")).to_contain_text(DECIDED)
            if scheme == "light":
                watched.shoot("dashboard-own", 900)


def test_the_sign_in_page(browser: Browser, coordinator: Server) -> None:
    for watched in watch(browser, coordinator, PHONE, "light"):
        look_at(watched, ["/sign-in"])


def test_the_demo_opens_signed_in_with_a_run_in_progress_and_follows_it_to_its_decision(
    browser: Browser, folder: Path, tmp_path: Path
) -> None:
    scenario = "cross-industry" if SHOTS else str(folder / "scenarios" / "banks-network.toml")
    demo = consortia("demo", "--no-browser", "--scenario", scenario, "--out", str(tmp_path / "runs"), folder=tmp_path)
    assert demo.stdout is not None
    try:
        demo.stdout.readline()
        link = demo.stdout.readline().strip()
        for watched in watch(browser, Server(demo, link.partition("/sign-in")[0]), DESKTOP, "light"):
            watched.page.goto(link)
            watched.page.get_by_role("row").nth(1).get_by_role("link").click(timeout=60_000)
            assert TOKEN not in watched.page.url
            expect(watched.page.locator(".decision")).to_contain_text(DECIDED, timeout=240_000)
            expect(watched.page.locator("svg.gauge").first).to_be_visible(timeout=120_000)
            watched.shoot("dashboard-run", 1000)
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(30)
        demo.stdout.close()
