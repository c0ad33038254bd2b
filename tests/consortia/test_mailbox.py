"""How every mode of a run sends and repeats messages. The test has a clock of its own, so nothing waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from consortia.common.errors import RunFailedError, RunRefusedError
from consortia.coordinator import mailbox as module
from consortia.coordinator.mailbox import Mailbox
from consortia.coordinator.rounds import Coordinator
from consortia.messages.exchange import Answer, Exchange
from consortia.terms.scenario import Scenario, load_scenario
from consortia.vertical.coordinator import VerticalCoordinator

Start = Callable[[Scenario, Path, Exchange], object]


class Clock:
    """Seconds that pass only where the test or a pause says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    stand_in = SimpleNamespace(monotonic=lambda: found.now, perf_counter=lambda: found.now, sleep=found.sleep)
    monkeypatch.setattr(module, "time", stand_in)
    return found


def _answers(*answers: Answer) -> Exchange:
    return lambda kind, envelopes, deadline: list(answers)


def _posted(folder: Path, *answers: Answer) -> tuple[list[Answer], dict[str, list[str]]]:
    """Ask `used-car` once; return what came of it, and the codes of failures by name."""
    box = Mailbox(load_scenario("banks-network"), "run-1", folder, _answers(*answers), None)
    came = list(box.post("train", 1, 1, {"used-car": b"question"}))
    return came, {name: [f["code"] for f in view.failures] for name, view in box.participants.items() if view.failures}


def test_an_answer_in_time_leaves_no_failure(tmp_path: Path) -> None:
    answer = Answer("used-car", b"answer")
    assert _posted(tmp_path, answer) == ([answer], {})


def test_a_late_reply_is_no_answer(tmp_path: Path) -> None:
    late = Answer("used-car", None, "LATE_REPLY")
    assert _posted(tmp_path, late) == ([late], {"used-car": ["NO_REPLY"]})
    answer = Answer("used-car", b"answer")
    assert _posted(tmp_path, late, answer) == ([late, answer], {})


def test_an_answer_of_somebody_who_was_not_asked_is_dropped(tmp_path: Path) -> None:
    stranger = Answer("furniture", b"answer")
    assert _posted(tmp_path, stranger) == ([], {"used-car": ["NO_REPLY"]})


def _silence(clock: Clock, seconds: float) -> Exchange:
    """Nobody answers, and each attempt takes `seconds`."""

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> Iterator[Answer]:
        clock.now += seconds
        yield from ()

    return exchange


def _pauses(scenario: Scenario, took: float) -> list[float]:
    """The pauses before each attempt: none, then that of the last attempt, times 1, 2, 4, …, within the deadline."""
    terms = scenario.contract.round
    rest = terms.deadline_seconds - took
    return [0.0, *(max(0.0, min(took * 2**n, rest)) for n in range(terms.attempts - 1))]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("banks-network", lambda *given: Coordinator(given[0], "run-1", *given[1:]).run()),
        ("banks-network", lambda *given: Coordinator(given[0], "run-1", *given[1:]).ask_who_can()),
        ("secure-banks-network", lambda *given: Coordinator(given[0], "run-1", *given[1:]).run()),
        ("shared-customers", lambda *given: VerticalCoordinator(given[0], "run-1", *given[1:], None).run()),
    ],
    ids=["round", "readiness", "secure sum", "vertical"],
)
@pytest.mark.parametrize("took", [2.0, 1e9])
def test_every_mode_pauses_longer_before_each_attempt(
    name: str, start: Start, took: float, tmp_path: Path, clock: Clock
) -> None:
    scenario = load_scenario(name)
    assert scenario.contract.round.attempts > 2
    with pytest.raises((RunFailedError, RunRefusedError)):
        start(scenario, tmp_path, _silence(clock, took))
    assert clock.pauses == _pauses(scenario, took)
