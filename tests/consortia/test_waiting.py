"""Words while one waits: round 1 at once, then who is waited for and how long at most; every code is a sentence."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from flwr.common.constant import ErrorCode
from rich.console import Console

from consortia.coordinator.event_file import EventFile
from consortia.engines.base import Job
from consortia.messages.answer_codes import PREFIX, meaning
from consortia.messages.flower import GridExchange
from consortia.participant.home import Home
from consortia.reports import watch as progress
from consortia.reports.waiting import Waiting
from consortia.reports.watch import Watch
from consortia.terms.scenario import load_scenario

SCENARIO = load_scenario("hospitals")
NAMES = [participant.name for participant in SCENARIO.roster]


def _event(event: str, participant: str | None = None, number: int = 1, **values: Any) -> dict[str, Any]:
    return {"event": event, "time": 1_000.0, "run": "r", "round": number, "participant": participant, **values}


def _asked(names: Sequence[str], number: int = 1, kind: str = "train", at: float = 1_000.0) -> list[dict[str, Any]]:
    return [_event("asked", name, number, kind=kind) | {"time": at} for name in names]


def _read(waiting: Waiting, events: Sequence[dict[str, Any]]) -> list[str]:
    return [line for event in events for line in waiting.read(event)]


def test_every_code_of_flower_is_a_sentence() -> None:
    codes = {value for name, value in vars(ErrorCode).items() if name.isupper()}
    assert len(codes) >= 9
    unnamed = meaning(f"{PREFIX}999")
    for code in codes:
        assert meaning(f"{PREFIX}{code}") not in {"", unnamed}, code
    assert "no name here" in unnamed
    assert meaning("BUDGET_EXHAUSTED").startswith("its budget is spent")
    assert meaning("WRONG_PARTICIPANT") == ""


def test_a_round_says_who_is_waited_for_since_when_and_how_long_at_most() -> None:
    waiting = Waiting(SCENARIO)
    assert waiting.sentence(0.0) == "waiting for the coordinator's app to start"
    waiting.read(_event("joining", absent=NAMES[1:], number=0))
    assert waiting.sentence(0.0) == f"waiting for {', '.join(NAMES[1:])} to join"
    assert _read(waiting, _asked(NAMES, kind="ready")) == []
    assert waiting.sentence(1_001.0).startswith(f"before round 1: 0 of {len(NAMES)} answered; waiting for {NAMES[0]}")
    assert _read(waiting, [_event("heard", name) for name in NAMES]) == []
    assert _read(waiting, _asked(NAMES)) == [f"round 1 of {SCENARIO.rounds} has begun at 00:16:40 UTC"]
    waiting.read(_event("heard", NAMES[0]))
    deadline = SCENARIO.contract.round.deadline_seconds
    left = divmod(round(deadline - 70), 60)
    said = waiting.sentence(1_070.0)
    assert f"round 1 of {SCENARIO.rounds}: 1 of {len(NAMES)} answered; waiting for {NAMES[1]}" in said
    assert f"since 00:16:40 UTC (1 min 10 s), at most {left[0]} min {left[1]} s more" in said
    for name in NAMES[1:]:
        waiting.read(_event("heard", name))
    assert waiting.sentence(1_080.0).endswith("the coordinator works on the answers")


def test_another_attempt_counts_its_own_time_and_asks_only_who_is_left() -> None:
    waiting = Waiting(SCENARIO)
    _read(waiting, _asked(NAMES))
    for name in NAMES[1:]:
        waiting.read(_event("heard", name))
    assert _read(waiting, [_event("failure", NAMES[0], code=f"{PREFIX}8", attempt=1)]) == [
        f"round 1: {NAMES[0]}: {PREFIX}8: {meaning(PREFIX + '8')}"
    ]
    assert _read(waiting, [_event("failure", NAMES[0], code=f"{PREFIX}8", attempt=2)]) == []
    _read(waiting, _asked(NAMES[:1], at=1_100.0))
    said = waiting.sentence(1_105.0)
    assert f"{len(NAMES) - 1} of {len(NAMES)} answered; waiting for {NAMES[0]} since 00:18:20 UTC (5 s)" in said


def test_of_many_five_are_named() -> None:
    waiting = Waiting(SCENARIO)
    _read(waiting, _asked([f"home-{number}" for number in range(1_000)]))
    assert "waiting for home-0, home-1, home-2, home-3, home-4 and 995 more since" in waiting.sentence(1_001.0)


def test_a_log_gets_round_1_at_once_and_a_line_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(SCENARIO, "r", tmp_path, {name: Home(tmp_path / name, name) for name in NAMES}, {})
    written = io.StringIO()
    watch = Watch(Console(file=written, width=200), job, simulation=False)
    watch._task = watch._progress.add_task("")
    tell = EventFile(tmp_path, "r")
    tell("joining", absent=[])
    for name in NAMES:
        tell("asked", round=1, participant=name, kind="train")
    watch._show(watch._new_events())
    assert [line.split(" has begun")[0] for line in written.getvalue().splitlines()] == [
        f"round 1 of {SCENARIO.rounds}"
    ]
    now = time.time()
    for later, lines in ((30.0, 1), (61.0, 2), (90.0, 2), (122.0, 3)):
        monkeypatch.setattr(progress.time, "time", lambda later=later: now + later)
        watch._show(watch._new_events())
        assert len(written.getvalue().splitlines()) == lines
    assert f"waiting for {NAMES[0]}" in written.getvalue()


class _Node:
    status, online_until = "", 0.0

    def __init__(self, name: str) -> None:
        self.name, self.node_id = name, 7


class _Grid:
    def __init__(self) -> None:
        self.looks = 0

    def get_nodes(self) -> list[_Node]:
        self.looks += 1
        return [_Node(name) for name in ("a", "b")[: self.looks - 1]]


def test_who_has_not_joined_is_told_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    told: list[list[str]] = []
    grid: Any = _Grid()
    GridExchange(grid, ["a", "b"], 60.0, lambda names: told.append(list(names)))
    assert told == [["a", "b"], ["b"], []]
