"""`--track tensorboard,mlflow`: writes the coordinator's view of a run to trackers.

Everything comes through `consortia.reports.live_runs`, so a tracker gets released and public values only, in a
simulation too. A tracker that fails is named once and dropped; the run goes on.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from consortia.common.errors import InputError
from consortia.reports.live_runs import Run
from consortia.reports.spent_by_round import curve

__all__ = ["TRACKERS", "Tracking", "Value", "chosen", "values"]

_EVERY_SECONDS = 5.0
_LAST_EVENT_SECONDS = 2.0


@dataclass(frozen=True)
class Value:
    """One number of one round; `name` is "what/participant", or what alone."""

    name: str
    round: int
    value: float


class Tracker(Protocol):
    """Where values go."""

    def write(self, new: Sequence[Value]) -> None:
        """Take values that were not there before."""

    def close(self, status: str) -> None:
        """Finish."""


class _TensorBoard:
    """Event files in `tensorboard/` of the run's folder."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run.folder / "tensorboard"))

    def write(self, new: Sequence[Value]) -> None:
        """See `Tracker`."""
        for each in new:
            self._writer.add_scalar(each.name, each.value, each.round)
        self._writer.flush()

    def close(self, status: str) -> None:
        """See `Tracker`."""
        self._writer.add_text("status", status)
        self._writer.close()


class _MLflow:
    """A run of the experiment that the scenario names, at `MLFLOW_TRACKING_URI` or in `mlflow.db` beside the runs."""

    def __init__(self, run: Run) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.folder.resolve().parent / 'mlflow.db'}"
        levels = {name: logging.getLogger(name).level for name in ("mlflow", "alembic")}
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)  # a new database tells of each of its migrations
        self._client = MlflowClient(tracking_uri=store)
        scenario = run.scenario
        found = self._client.get_experiment_by_name(scenario.name)
        experiment = found.experiment_id if found else self._client.create_experiment(scenario.name)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        self._id = self._client.create_run(experiment, run_name=run.id, tags={"consortia.run": run.id}).info.run_id
        params = {
            "contract_sha256": scenario.contract.sha256(),
            "strategy": scenario.contract.strategy.name,
            "rounds": scenario.contract.rounds,
            "participants": ", ".join(seat.name for seat in scenario.roster),
        }
        self._client.log_batch(self._id, params=[Param(key, str(value)) for key, value in params.items()])

    def write(self, new: Sequence[Value]) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(each.name, each.value, now, each.round) for each in new]
        for start in range(0, len(metrics), 1000):  # the most that a store takes at once
            self._client.log_batch(self._id, metrics=metrics[start : start + 1000])

    def close(self, status: str) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._id, {"completed": "FINISHED", "failed": "FAILED"}.get(status, "KILLED"))


TRACKERS: dict[str, tuple[str, type[Any]]] = {
    "tensorboard": ("torch.utils.tensorboard", _TensorBoard),
    "mlflow": ("mlflow", _MLflow),
}


def chosen(text: str) -> list[str]:
    """Return the trackers that `NAME,…` names; those that there are not, or whose package is not there, are refused."""
    import importlib

    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"--track: wanted some of {', '.join(TRACKERS)}, got {name!r}")
        try:
            importlib.import_module(TRACKERS[name][0])
        except ImportError:
            raise InputError(f"--track {name}: wanted its package, got none; pip install 'consortia[track]'") from None
    return names


def values(run: Run, *, epsilon: bool) -> Iterator[Value]:
    """Yield everything that is known of a run, by participant and round; `epsilon` takes time and is for the end."""
    for number, seconds, replies in run.rounds:
        yield Value("round seconds", number, seconds)
        yield Value("replies", number, replies)
    for seat in run.seats.values():
        released = [(f"validation {metric}", point) for metric, points in seat.metrics.items() for point in points]
        released += [(f"test {metric}", point) for metric, point in seat.final.items()]
        for metric, point in released:
            for end, value in {"": point.value, " 95 low": point.low, " 95 high": point.high}.items():
                if value is not None:
                    yield Value(f"{metric}{end}/{seat.name}", point.round, value)
        for number, spent in curve(run, seat) if epsilon else ():
            yield Value(f"epsilon of the run at delta {seat.delta:g} per {seat.unit}/{seat.name}", number, spent)
        for what, series in (("seconds", seat.seconds), ("bytes sent", seat.sent), ("bytes received", seat.received)):
            for number, amount in series:
                yield Value(f"{what}/{seat.name}", number, amount)


class Tracking(AbstractContextManager[None]):
    """Feeds trackers while a run goes on, from a thread of its own, and once more at its end.

    Parameters
    ----------
    folder : Path
        The run's folder; it holds scenario.json.
    names : sequence of str
        Some of `TRACKERS`.
    warn : callable
        Gets one sentence for a tracker that failed.
    """

    def __init__(self, folder: Path, names: Sequence[str], warn: Any) -> None:
        self._folder, self._names, self._warn = folder, names, warn
        self._done = threading.Event()
        self._sent: set[tuple[str, int]] = set()
        self._trackers: dict[str, Tracker] = {}

    def __enter__(self) -> None:
        if not self._names:
            return
        self._run = Run(self._folder)
        for name in self._names:
            self._attempt(name, lambda name=name: self._trackers.update({name: TRACKERS[name][1](self._run)}))
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        if not self._names:
            return
        self._done.set()
        self._thread.join()
        self._read_to_the_end()
        self._feed(epsilon=True)
        for name, tracker in list(self._trackers.items()):
            self._attempt(name, lambda tracker=tracker: tracker.close(self._run.status))

    def _read_to_the_end(self) -> None:
        """Read what is left; a coordinator in another process writes its last event just after its record."""
        deadline = time.monotonic() + _LAST_EVENT_SECONDS
        self._run.refresh()
        while (
            self._run.status == "running"
            and (self._folder / "coordinator.json").is_file()
            and time.monotonic() < deadline
        ):
            time.sleep(0.02)
            self._run.refresh()

    def _follow(self) -> None:
        while not self._done.wait(_EVERY_SECONDS):
            if self._run.refresh():
                self._feed(epsilon=False)

    def _feed(self, *, epsilon: bool) -> None:
        found = list(values(self._run, epsilon=epsilon))
        new = [each for each in found if (each.name, each.round) not in self._sent]
        self._sent.update((each.name, each.round) for each in new)
        for name, tracker in list(self._trackers.items()):
            self._attempt(name, lambda tracker=tracker: tracker.write(new))

    def _attempt(self, name: str, work: Any) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a tracker is a convenience; training goes on without it
            self._trackers.pop(name, None)
            self._warn(f"--track {name}: {type(error).__name__}; this run is no longer tracked there")
