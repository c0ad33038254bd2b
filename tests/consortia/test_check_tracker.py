"""Every tracker passes `check_tracker`, and a broken one fails the check that is named after what it breaks."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import unquote

import pytest

from consortia.reports import trackers
from consortia.reports.trackers import TrackedRun, Value
from consortia.testing import TrackerCheckError, check_tracker
from consortia.testing._trackers import _CHECKS


class JsonLines:
    """One line a value, in `values.jsonl` of the run's folder."""

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self.file = (run.folder / "values.jsonl").open("a", encoding="utf-8")

    def write(self, new: Sequence[Value]) -> None:
        for each in new:
            self.file.write(json.dumps(vars(each)) + "\n")
        self.file.flush()

    def close(self, status: str) -> None:
        self.file.close()


def read(run: TrackedRun) -> Iterator[Value]:
    file = run.folder / "values.jsonl"
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        yield Value(**json.loads(line))


def read_tensorboard(run: TrackedRun) -> Iterator[Value]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run.folder / "tensorboard"), {"scalars": 0}).Reload()
    for name in found.Tags()["scalars"]:
        yield from (Value(name, each.step, each.value) for each in found.Scalars(name))


def read_mlflow(run: TrackedRun) -> Iterator[Value]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{run.folder.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(run.scenario).experiment_id
    for one in client.search_runs([experiment], f"tags.`consortia.run` = '{run.id}'"):
        for name in one.data.metrics:
            history = client.get_metric_history(one.info.run_id, name)
            yield from (Value(unquote(each.key.replace(":", "%")), each.step, each.value) for each in history)


def test_a_tracker_of_lines_holds_its_promises() -> None:
    assert check_tracker(JsonLines, read) == tuple(_CHECKS)


@pytest.mark.end_to_end
@pytest.mark.filterwarnings("ignore")  # of their own libraries
@pytest.mark.parametrize(("name", "back"), [("tensorboard", read_tensorboard), ("mlflow", read_mlflow)])
def test_the_built_in_trackers_hold_their_promises(name: str, back: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert set(check_tracker(trackers.get(name), back)) == set(_CHECKS)


class _Rounds(JsonLines):
    def write(self, new):
        super().write([Value(each.name, each.round, round(each.value, 3)) for each in new])


class _Names(JsonLines):
    def write(self, new):
        super().write([Value(each.name.partition("/")[0], each.round, each.value) for each in new])


class _First(JsonLines):
    def write(self, new):
        super().write(new[:500])


class _NeedsOne(JsonLines):
    def write(self, new):
        assert new[0]
        super().write(new)


class _Keeps(JsonLines):
    def __init__(self, run):
        super().__init__(run)
        self.kept = []

    def write(self, new):
        self.kept += new

    def close(self, status):
        super().write(self.kept)
        super().close(status)


class _OnlyCompleted(JsonLines):
    def close(self, status):
        self.file.close()
        if status != "completed":
            (self.run.folder / "values.jsonl").unlink()


class _NeedsRounds(JsonLines):
    def close(self, status):
        written = self.file.tell()
        self.file.close()
        assert written


class _Shared(JsonLines):
    files: dict[str, Any] = {}  # noqa: RUF012 - the mistake

    def __init__(self, run):
        super().__init__(run)
        _Shared.files["file"] = self.file

    def write(self, new):
        for each in new:
            _Shared.files["file"].write(json.dumps(vars(each)) + "\n")
        _Shared.files["file"].flush()


class _Once(JsonLines):
    def __init__(self, run):
        self.run = run
        self.file = (run.folder / "values.jsonl").open("x", encoding="utf-8")


class _OneThread(JsonLines):
    def __init__(self, run):
        super().__init__(run)
        self.database = sqlite3.connect(run.folder / "values.db")

    def write(self, new):
        self.database.execute("select 1")
        super().write(new)

    def close(self, status):
        self.database.close()
        super().close(status)


class _Drains(JsonLines):
    def write(self, new):
        super().write(new)
        if isinstance(new, list):
            new.clear()


class _Rewrites(JsonLines):
    def close(self, status):
        super().close(status)
        (self.run.folder / "scenario.json").write_text(json.dumps({"status": status}))


class _Prints(JsonLines):
    def close(self, status):
        super().close(status)
        print(f"{self.run.id}: {status}")


class _Environment(JsonLines):
    def __init__(self, run):
        super().__init__(run)
        os.environ["TRACKED_RUN"] = run.id


class _Thread(JsonLines):
    stop = threading.Event()

    def __init__(self, run):
        super().__init__(run)
        threading.Thread(target=self.stop.wait, name="sends").start()


MUTANTS = {
    "keeps_every_value": [_Rounds, _Names],
    "takes_portions_of_any_size": [_First, _NeedsOne],
    "holds_values_before_it_is_closed": [_Keeps],
    "closes_with_every_status": [_OnlyCompleted, _NeedsRounds],
    "runs_stay_apart": [_Shared],
    "takes_a_run_up_again": [_Once],
    "works_in_any_thread": [_OneThread],
    "leaves_the_run_alone": [_Drains, _Rewrites],
    "leaves_the_process_alone": [_Prints, _Environment, _Thread],
}


@pytest.mark.parametrize(
    ("check", "mutant"),
    [(check, mutant) for check, mutants in MUTANTS.items() for mutant in mutants],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_named_check_rejects_the_mutant(check: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKED_RUN", "")  # one of them writes into it
    _Thread.stop.clear()
    try:
        with pytest.raises(TrackerCheckError) as caught:
            check_tracker(mutant, read)
    finally:
        _Thread.stop.set()
    assert check in caught.value.failures
    assert f"  {check}: " in str(caught.value)


def test_every_check_has_a_mutant() -> None:
    assert set(MUTANTS) == set(_CHECKS)
