"""The runner's wait for a run has an end. The SuperLink's words are invented here, and time is a count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from consortia.common.errors import RunFailedError
from consortia.deploy import runner
from consortia.engines.control import UNANSWERED, UNLISTED
from consortia.terms.scenario import load_scenario


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[float], str]], float]:
    """Follow a run whose status is told for each second since its start; the run's record comes after 1,000 s."""
    job = runner.make_job(load_scenario("linear"), tmp_path)
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now >= 1000:
            (job.folder / "coordinator.json").write_text(json.dumps({"rounds": []}))

    monkeypatch.setattr(runner, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))

    def run(status: Callable[[float], str]) -> float:
        control: Any = SimpleNamespace(submit=lambda _: "1", status=lambda _: status(now))
        runner.follow(job, control)
        return now

    return run


@pytest.mark.parametrize(
    ("status", "says"),
    [(UNANSWERED, "the SuperLink did not answer, asked "), (UNLISTED, "the SuperLink did not know the run, asked ")],
)
def test_a_superlink_that_no_longer_tells_ends_the_wait(follow: Any, status: str, says: str) -> None:
    asked: list[float] = []

    def told(now: float) -> str:
        asked.append(now)
        return "running:" if now < 100 else status

    with pytest.raises(RunFailedError, match=f"{says}.*CONSORTIA_RESUME"):
        follow(told)
    assert 400 <= asked[-1] < 450


def test_an_outage_of_four_minutes_ends_nothing(follow: Any) -> None:
    assert follow(lambda now: UNANSWERED if now % 300 < 240 else "running:") == pytest.approx(1000, abs=1)


def test_few_asks_are_no_outage(follow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_STATUS_EVERY_SECONDS", 150.0)  # six asks over 750 s
    assert follow(lambda _: UNANSWERED) == pytest.approx(1000, abs=1)
