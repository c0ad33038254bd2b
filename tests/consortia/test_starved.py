"""A launcher without CPU time for longer than its task's token lasts costs time and no round, on real Flower."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from own_homes import own_homes
from wire_tap import TappedFederation

from consortia.engines import flower
from consortia.engines.base import Job
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare

pytestmark = [pytest.mark.end_to_end, pytest.mark.long]

ROUNDS = 2
STARVED = "va"
#: A token lasts for two heartbeats of 30 s. The SuperNode ends the task, and its answer is FLOWER_ERROR_8.
SECONDS = 70.0
#: In the first training all processes of the launcher stand still; the mark is for the test.
STOP = """
import os, pathlib, signal
from consortia.participant import local
train, mark = local.train_round, pathlib.Path({mark!r})
def training(*arguments, **options):
    if not mark.exists():
        mark.touch()
        os.killpg(0, signal.SIGSTOP)
    return train(*arguments, **options)
local.train_round = training
"""


class _Starving(TappedFederation):
    """The Flower engine; one launcher stands still in its first training and goes on after a while."""

    def __init__(self, job: Job) -> None:
        self.mark = job.folder / "stopped"
        super().__init__(job, {STARVED: STOP.format(mark=str(self.mark))})

    def submit(self) -> None:
        super().submit()
        threading.Thread(target=self._go_on, daemon=True).start()

    def _go_on(self) -> None:
        while not self.mark.exists():
            time.sleep(0.1)
        time.sleep(SECONDS)
        os.killpg(self.processes[f"{STARVED}-app"].pid, signal.SIGCONT)


def test_a_starved_launcher_loses_no_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = own_homes("hospitals-network", tmp_path / "homes", monkeypatch, rounds=ROUNDS)
    monkeypatch.setattr(flower, "Federation", _Starving)
    options = Options(scenario="hospitals-network", rounds=ROUNDS, engine="flower", out=tmp_path / "runs")
    job = prepare(options)
    done = execute(job, options)
    assert (job.folder / "stopped").exists()
    assert "401 Unauthorized" in (job.folder / "flower" / f"{STARVED}-app.log").read_text()  # its token had ended
    assert done.result["status"] == "completed"
    events = [json.loads(line) for line in (job.folder / "events.jsonl").read_text().splitlines()]
    rounds = [set(line["replies"]) for line in events if line["event"] == "round"]
    assert rounds == [set(names)] * ROUNDS
    assert not any(seat["failures"] for seat in done.result["participants"].values())
