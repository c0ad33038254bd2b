"""`--track tensorboard,mlflow`: writes the coordinator's view of a run to trackers.

Everything comes through `consortia.reports.live_runs`, so a tracker gets released and public values only, in a
simulation too. A tracker that fails is named once and dropped; the run goes on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from consortia.reports import trackers
from consortia.reports.live_runs import Run
from consortia.reports.spent_by_round import curve
from consortia.reports.trackers import TrackedRun, Tracker, Value

__all__ = ["Tracking", "values"]

_EVERY_SECONDS = 5.0
_LAST_EVENT_SECONDS = 2.0


def tracked(run: Run) -> TrackedRun:
    """Return what a tracker is told of a run."""
    contract = run.scenario.contract
    facts = {
        "contract_sha256": contract.sha256(),
        "strategy": ", ".join(dict.fromkeys(part.contract.strategy.name for part in run.scenario.parts())),
        "rounds": str(run.scenario.rounds),
        "participants": ", ".join(participant.name for participant in run.scenario.roster),
    }
    return TrackedRun(id=run.id, folder=run.folder, scenario=run.scenario.name, facts=facts)


def values(run: Run, *, epsilon: bool) -> Iterator[Value]:
    """Yield everything that is known of a run, by participant and round; `epsilon` takes time and is for the end."""
    for number, seconds, replies in run.rounds:
        yield Value("round seconds", number, seconds)
        yield Value("replies", number, replies)
    for participant in run.participants.values():
        released = [
            (f"validation {metric}", point) for metric, points in participant.metrics.items() for point in points
        ]
        released += [(f"test {metric}", point) for metric, point in participant.final.items()]
        for metric, point in released:
            for end, value in {"": point.value, " 95 low": point.low, " 95 high": point.high}.items():
                if value is not None:
                    yield Value(f"{metric}{end}/{participant.name}", point.round, value)
        for number, spent in curve(run, participant) if epsilon else ():
            yield Value(
                f"epsilon of the run at delta {participant.delta:g} per {participant.unit}/{participant.name}",
                number,
                spent,
            )
        for what, series in (
            ("seconds", participant.seconds),
            ("bytes sent", participant.sent),
            ("bytes received", participant.received),
        ):
            for number, amount in series:
                yield Value(f"{what}/{participant.name}", number, amount)


class Tracking(AbstractContextManager[None]):
    """Feeds trackers while a run goes on, from a thread of its own, and once more at its end.

    Parameters
    ----------
    folder : Path
        The run's folder; it holds scenario.json.
    names : sequence of str
        What `chosen` returned.
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
        told = tracked(self._run)
        for name in self._names:
            self._attempt(name, lambda name=name: self._trackers.update({name: trackers.get(name)(told)}))
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
            whose = trackers.package(name)
            where = f"--track {name}" + (f" of {whose}" if whose else "")
            self._warn(f"{where}: {type(error).__name__}; this run is no longer tracked there")
