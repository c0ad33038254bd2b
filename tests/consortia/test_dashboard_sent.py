"""What the dashboard sends: what is read is compressed, the answer to a form is not, a plot is drawn once.

Also what the foot of a page and the paragraph of a failed run say."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from dashboard_pages import TOKEN, get, signed
from fastapi import FastAPI
from pictured_runs import IDS, write_runs
from starlette.responses import StreamingResponse
from starlette.types import Scope

from consortia.coordinator.event_file import FILE as EVENTS
from consortia.dashboard import coordinator
from consortia.dashboard.app import build
from consortia.dashboard.compression import Compression
from consortia.dashboard.coordinator import CoordinatorView
from consortia.dashboard.run_page import by_code, run_charts
from consortia.reports.decision import reasons
from consortia.reports.live_runs import Failure, Run
from consortia.reports.page.board import board
from consortia.reports.page.facts import gather
from consortia.trust.passport import FILE as PASSPORT

CHANGES = "another-token-of-this-test"
RUN = f"/runs/{IDS['finished']}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sent") / "runs"
    write_runs(folder)
    return folder


@pytest.mark.parametrize("path", ["/", RUN, "/assets/style.css"])
def test_a_page_is_compressed(runs: Path, path: str) -> None:
    answer = signed(build(CoordinatorView(runs, None), TOKEN), path)
    assert answer.headers["content-encoding"] == "gzip"
    assert "Accept-Encoding" in answer.headers["vary"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert int(answer.headers["content-length"]) < len(answer.content) / 2


def test_neither_a_ticket_beside_a_form_nor_the_stream_is_compressed(runs: Path) -> None:
    app = build(CoordinatorView(runs, None), TOKEN, CHANGES)
    cookie = get(app, "/sign-in", "POST", data={"token": CHANGES}).headers["set-cookie"].split(";")[0]
    headers = {"Cookie": cookie, "Origin": "http://127.0.0.1"}
    answer = get(app, "/change/run", "POST", data={"scenario": "banks-network"}, headers=headers)
    assert "ticket" in answer.text
    assert len(answer.content) > 1000
    assert "content-encoding" not in answer.headers
    assert "content-encoding" not in _stream().headers


def _stream() -> Any:
    """Return the first message of an endless answer at the address of the updates."""

    async def endless(scope: Scope, receive: Any, send: Any) -> None:
        async def lines() -> Any:
            yield b"data: 1\n\n" * 500

        await StreamingResponse(lines(), media_type="text/event-stream")(scope, receive, send)

    app = FastAPI()
    app.mount("/", endless)
    app.add_middleware(Compression)
    return get(app, "/live")


def test_a_plot_is_drawn_once_for_each_new_event(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Run] = []

    def draw(run: Run) -> list[Any]:
        drawn.append(run)
        return run_charts(run)

    monkeypatch.setattr(coordinator, "run_charts", draw)
    view = CoordinatorView(runs, None)
    app = build(view, TOKEN)
    for version, times in (("1", 1), ("1", 1), ("2", 1), ("3", 2)):
        if version == "3":
            with (runs / IDS["finished"] / EVENTS).open("a") as file:
                file.write("{}\n")
        monkeypatch.setattr(view, "version", lambda _about, version=version: version)
        signed(app, RUN)
        assert len(drawn) == times


def test_the_foot_of_a_page_says_whether_anything_can_be_changed(runs: Path) -> None:
    def foot(change_token: str) -> str:
        text = signed(build(CoordinatorView(runs, None), TOKEN, change_token), RUN).text
        return str(re.findall(r"<footer>.*</footer>", text)[0])

    assert "Nothing can be changed here." in foot("")
    assert "Whoever signed in with the token for changes can make some on the page Runs" in foot(CHANGES)


def test_a_failed_run_says_once_what_holds_for_several() -> None:
    code = "CONTRACT_NOT_ALLOWED: it does not accept this contract; its owner runs `consortia budget allow`"
    text = f"wanted 1 of 3, got 0\nwanted 1 of 3, got 0\nhospital-a: {code}\nbank-a: {code}\nother: {code}"
    assert reasons(text, ["hospital-a", "bank-a"]) == [
        f"hospital-a and bank-a: {code}.",
        "Wanted 1 of 3, got 0.",
        f"Other: {code}.",
    ]
    assert reasons("", ["hospital-a"]) == []


def test_the_first_page_of_a_failed_run_has_its_numbers_and_promises_nothing(runs: Path) -> None:
    first = board(gather(runs / IDS["failed"]))
    assert first.numbers == [("4 of 5", "participants refused or failed"), ("1", "rounds were finished")]
    assert first.guarantee.startswith("Nobody said at which ε it took part")
    assert "non-private" not in first.guarantee
    assert first.decision.cost.startswith("What it cost has no final number")


def test_failures_are_told_by_reason() -> None:
    found = by_code(
        [*(Failure(float(n), n, f"bank-{n % 2}", "BAD_REPLY") for n in range(1, 10)), Failure(10.0, 3, "a", "NO_REPLY")]
    )
    assert [(one["code"], one["count"], one["who"], one["first"], one["last"], one["time"]) for one in found] == [
        ("NO_REPLY", 1, "a", 3, 3, 10.0),
        ("BAD_REPLY", 9, "bank-0 and bank-1", 1, 9, 9.0),
    ]


def test_a_run_says_where_its_proofs_are(runs: Path) -> None:
    folder = runs / IDS["resumed"]
    path = f"/runs/{folder.name}"
    app = build(CoordinatorView(runs, None), TOKEN)
    assert "Proof" not in signed(app, path).text
    (folder / PASSPORT).write_text("{}")
    (folder / "evidence").mkdir()
    (folder / "evidence" / "facts.json").write_text('{"schema": 1, "run": {"run_id": "another"}}')
    text = signed(app, path).text
    assert "consortia verify" in text
    assert f"sha256:{hashlib.sha256(b'{}').hexdigest()}" in text
    assert "An evidence pack" not in text  # of another run
    (folder / "evidence" / "facts.json").write_text(f'{{"schema": 1, "run": {{"run_id": "{folder.name}"}}}}')
    assert f"{folder.name}/evidence/README.md" in signed(app, path).text
    (folder / "evidence" / "facts.json").write_text("{half")
    assert "An evidence pack" not in signed(app, path).text
