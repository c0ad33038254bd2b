"""`check_tracker`: the conformance suite of trackers."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consortia.common.errors import ArgumentError
from consortia.reports.trackers import MakeTracker, TrackedRun, Tracker, Value
from consortia.testing._suite import SuiteError, leaves_the_process_as_it_is, require, run_checks
from consortia_plugins.arguments import named_arguments

#: Gives back what a tracker keeps of a run.
Read = Callable[[TrackedRun], Iterable[Value]]
#: Names as runs have them: the units and participants are the users' own words.
_NAMES: Final = (
    "round seconds",
    "validation auc/used-car",
    "validation auc 95 low/used-car",
    "epsilon of the run at delta 1e-05 per Kunden-Nr. (ä)/used-car",
    "bytes sent/used-car",
)
_NUMBERS: Final = (0.0, -1.5, 1e-9, 123456789.0, 0.7302)
_STATUS: Final = ("completed", "failed", "running")


def values(rounds: Sequence[int]) -> list[Value]:
    """Return values of some rounds, different everywhere."""
    return [
        Value(name, number, amount + 0.001 * number)
        for number in rounds
        for name, amount in zip(_NAMES, _NUMBERS, strict=True)
    ]


@dataclass
class Case:
    """A tracker under test, in runs of its own."""

    make: MakeTracker
    read: Read
    folder: Path

    def run(self, name: str) -> TrackedRun:
        """Return a run with what its coordinator has written so far."""
        folder = self.folder / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scenario.json").write_text('{"name": "check"}', encoding="utf-8")
        (folder / "events.jsonl").write_text('{"event": "start"}\n', encoding="utf-8")
        facts = {"strategy": "fedavg", "rounds": "3", "participants": "new-car, used-car"}
        return TrackedRun(id=name, folder=folder, scenario="check-tracker", facts=facts)

    @contextmanager
    def tracking(self, name: str, status: str = "completed") -> Iterator[tuple[Tracker, TrackedRun]]:
        """Yield a tracker of a new run, and close it."""
        run = self.run(name)
        tracker = self.make(run)
        try:
            yield tracker, run
        except BaseException:
            with contextlib.suppress(Exception):  # what broke first is told
                tracker.close("failed")
            raise
        tracker.close(status)

    def missing(self, run: TrackedRun, wanted: Sequence[Value]) -> str:
        """Return what is wrong with what the tracker keeps of a run; empty when nothing is."""
        found = {(each.name, each.round): each.value for each in self.read(run)}
        for each in wanted:
            got = found.pop((each.name, each.round), None)
            if got is None:
                return f"{each.name!r} of round {each.round} is missing"
            if abs(got - each.value) > 1e-6 * max(1e-9, abs(each.value)):
                return f"{each.name!r} of round {each.round}: wanted {each.value!r}, got {got!r}"
        return f"it holds {next(iter(found))}, which nobody wrote" if found else ""


def keeps_every_value(case: Case) -> None:
    """With its name, its round and its number to six digits."""
    with case.tracking("keeps") as (tracker, run):
        for number in (1, 2, 5):
            tracker.write(values([number]))
    problem = case.missing(run, values([1, 2, 5]))
    require(not problem, problem)


def takes_portions_of_any_size(case: Case) -> None:
    """None at all, and those of a thousand rounds at once."""
    with case.tracking("portions") as (tracker, run):
        tracker.write([])
        tracker.write(values(range(1, 1001)))
        tracker.write(())
    problem = case.missing(run, values(range(1, 1001)))
    require(not problem, problem)


def holds_values_before_it_is_closed(case: Case) -> None:
    """A run is watched while it goes on, and one that is killed closes nothing."""
    with case.tracking("open") as (tracker, run):
        tracker.write(values([1]))
        problem = case.missing(run, values([1]))
    require(not problem, f"before it is closed: {problem}")


def closes_with_every_status(case: Case) -> None:
    """A run is completed, failed or interrupted, before its first round too."""
    for status in _STATUS:
        with case.tracking(f"empty-{status}", status):
            pass
        with case.tracking(f"full-{status}", status) as (tracker, run):
            tracker.write(values([1]))
        problem = case.missing(run, values([1]))
        require(not problem, f"closed as {status}: {problem}")


def runs_stay_apart(case: Case) -> None:
    """Two runs of a scenario at the same time."""
    with case.tracking("left") as (left, one), case.tracking("right") as (right, other):
        left.write(values([1]))
        right.write(values([2]))
        left.write(values([3]))
    for run, rounds in ((one, [1, 3]), (other, [2])):
        problem = case.missing(run, values(rounds))
        require(not problem, f"two runs at once: {problem}")


def takes_a_run_up_again(case: Case) -> None:
    """`--resume` makes a second tracker of the same run, which gets all values again."""
    with case.tracking("resumed", "running") as (tracker, run):
        tracker.write(values([1]))
    with case.tracking("resumed") as (tracker, run):
        tracker.write(values([1, 2]))
    problem = case.missing(run, values([1, 2]))
    require(not problem, f"made again for the same run: {problem}")


def works_in_any_thread(case: Case) -> None:
    """It is made in one thread and fed from another."""
    errors: list[str] = []
    with case.tracking("thread") as (tracker, run):

        def feed() -> None:
            try:
                tracker.write(values([1]))
            except Exception as error:  # noqa: BLE001 - of a tracker that is not ours
                errors.append(type(error).__name__)

        thread = threading.Thread(target=feed)
        thread.start()
        thread.join()
    require(not errors, f"written from another thread: {', '.join(errors)}")
    problem = case.missing(run, values([1]))
    require(not problem, f"written from another thread: {problem}")


def leaves_the_run_alone(case: Case) -> None:
    """What the coordinator wrote stays as it was, and so does what it is given."""
    given = values([1, 2])
    with case.tracking("alone") as (tracker, run):
        tracker.write(given)
    require(given == values([1, 2]), "it changed the values that it was given")
    for name, text in (("scenario.json", '{"name": "check"}'), ("events.jsonl", '{"event": "start"}\n')):
        file = run.folder / name
        require(file.is_file() and file.read_text(encoding="utf-8") == text, f"it changed the run's {name}")


def leaves_the_process_alone(case: Case) -> None:
    """Nothing on standard output, which may be a command's JSON; no thread that keeps the process from ending."""
    said, level = io.StringIO(), logging.getLogger().level
    before = {thread.ident for thread in threading.enumerate()}
    with contextlib.redirect_stdout(said), leaves_the_process_as_it_is(), case.tracking("process") as (tracker, _):
        tracker.write(values([1]))
    require(not said.getvalue(), f"it printed {said.getvalue()[:40]!r} to standard output")
    require(logging.getLogger().level == level, "it changed the level of the root logger")
    left = [t.name for t in threading.enumerate() if t.ident not in before and not t.daemon]
    require(not left, f"closed, it left the thread {', '.join(left)}")


_CHECKS = {
    check.__name__: check
    for check in (
        keeps_every_value,
        takes_portions_of_any_size,
        holds_values_before_it_is_closed,
        closes_with_every_status,
        runs_stay_apart,
        takes_a_run_up_again,
        works_in_any_thread,
        leaves_the_run_alone,
        leaves_the_process_alone,
    )
}


class TrackerCheckError(SuiteError):
    """The tracker breaks at least one promise. `failures` maps each failed check to what it saw."""


@named_arguments(ArgumentError)
def check_tracker(make: MakeTracker, read: Read) -> tuple[str, ...]:
    """Hold a tracker to the promises of the seam (`consortia.reports.trackers.Tracker`).

    Returns the names of the checks and raises `TrackerCheckError`, both as every suite of `consortia.testing` does.

    Parameters
    ----------
    make : callable
        The tracker's class.
    read : callable
        Run -> the values that the tracker keeps of it: the only way to know that they arrived.
    """
    with tempfile.TemporaryDirectory() as folder:
        case = Case(make, read, Path(folder))
        return run_checks(_CHECKS, case, TrackerCheckError, f"tracker {getattr(make, '__name__', make)}")
