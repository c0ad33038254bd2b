"""Reads runs for their coordinator while they go on: released and public values only.

Read from what the coordinator itself writes: `scenario.json`, the event file, and for the final metrics
`coordinator.json`. A simulation's `result.json`, its receipts and everything else of a participant is never opened.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients.tables import known_from
from consortia.common.errors import ConsortiaError
from consortia.coordinator.event_file import FILE
from consortia.engines.record import event_seen
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario, scenario_from_json
from consortia.vertical.request import total_steps
from privacy.events import PoissonGaussian

#: Failures for which nothing of the participant was heard.
SILENT = frozenset({"NO_REPLY", "NOT_JOINED", "NOT_PUSHED"})
#: Seconds beyond every deadline of a round after which a run without a sign of life counts as stopped.
_GRACE = 120.0
_RECENT = 10
#: Lines that the parser gets in one call: a call for each costs as much as what it reads.
_AT_ONCE = 200


@dataclass(frozen=True)
class Point:
    """A released metric of one model; without an interval where it left without noise."""

    round: int
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Failure:
    """A failure as it is shown: who, when, which code; a detail may quote what a participant wrote and is left out."""

    time: float
    round: int
    participant: str
    code: str


@dataclass
class LiveParticipant:
    """What the coordinator knows of one participant in one run.

    Attributes
    ----------
    standing : dict
        State, declared noise, budget and unit, counted bytes (`consortia.coordinator.participant_view.standing`); empty
        before a round.
    waited_since : float or None
        When the open message went.
    contributed : list of int
        Rounds whose update was taken.
    seconds : list of (round, float)
        From asking to hearing.
    sent : list of (round, int)
        Bytes up to then.
    metrics, final : by name of the metric
        Between rounds, and of the final model.
    """

    roster: RosterParticipant
    standing: dict[str, Any] = field(default_factory=dict)
    waited_since: float | None = None
    seen: float | None = None
    contributed: list[int] = field(default_factory=list)
    seconds: list[tuple[int, float]] = field(default_factory=list)
    sent: list[tuple[int, int]] = field(default_factory=list)
    received: list[tuple[int, int]] = field(default_factory=list)
    failures: int = 0
    metrics: dict[str, list[Point]] = field(default_factory=dict)
    final: dict[str, Point] = field(default_factory=dict)
    final_exact: bool = False

    @property
    def name(self) -> str:
        """Of the participant."""
        return self.roster.name

    @property
    def state(self) -> str:
        """ACTIVE, RECEIVE_ONLY, REFUSED or, in a vertical run, LEFT_OUT."""
        return str(self.standing.get("state", "ACTIVE"))

    @property
    def state_in_words(self) -> str:
        """Of `state`: who receives only and never sent anything refused to train."""
        if self.state == "RECEIVE_ONLY":
            return "only receives now" if self.contributed else "refused to train"
        return self.state.lower().replace("_", " ")

    @property
    def non_private(self) -> bool | None:
        """None until the participant has said."""
        return self.standing.get("non_private")

    @property
    def budget(self) -> float | None:
        """Epsilon that it allows this run; the proposal until it has said."""
        if self.standing.get("noise_multiplier") is not None:
            allowed: float | None = self.standing["epsilon_budget"]
            return allowed
        return None if self.roster.non_private else self.roster.epsilon

    @property
    def delta(self) -> float:
        """Of the budget."""
        return float(self.standing.get("delta", self.roster.delta))

    @property
    def unit(self) -> str | None:
        """What one neighbour is."""
        return self.standing.get("unit")


class Run:
    """One run's folder, read again from where the last look ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name
        known_from(folder)
        self.scenario: Scenario = scenario_from_json((folder / "scenario.json").read_text(encoding="utf-8"))
        self.total = total_steps(self.scenario)
        self._reset()

    def _reset(self) -> None:
        self._position = 0
        self.participants = {participant.name: LiveParticipant(participant) for participant in self.scenario.roster}
        self.rounds: list[tuple[int, float, int]] = []
        self.failures: list[Failure] = []
        self.started: float | None = None
        self.last: float | None = None
        self.ended: float | None = None
        self._end = ""
        self.reason = ""

    @property
    def position(self) -> int:
        """Bytes of the event file that were read: it changes whenever anything happened."""
        return self._position

    @property
    def done(self) -> int:
        """Rounds (steps of a vertical run) that are finished."""
        return self.rounds[-1][0] if self.rounds else 0

    @property
    def status(self) -> str:
        """prepared, running, completed, failed, or stopped (no sign of life beyond every deadline)."""
        if self._end or self.last is None:
            return self._end or "prepared"
        terms = self.scenario.contract.round
        silence = time.time() - self.last
        return "stopped" if silence > terms.deadline_seconds * terms.attempts + _GRACE else "running"

    @property
    def elapsed(self) -> float | None:
        """Seconds from the first start to the end, or to the last sign of life."""
        last = self.ended or self.last
        return None if self.started is None or last is None else last - self.started

    @property
    def left(self) -> float | None:
        """Seconds that the remaining rounds would take at the pace of the last ones; None when it is not running."""
        if self.status != "running" or not self.rounds:
            return None
        pace = statistics.median(seconds for _, seconds, _ in self.rounds[-_RECENT:])
        return pace * max(0, self.total - self.done)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that anybody released."""
        return sorted(
            {name for participant in self.participants.values() for name in (*participant.metrics, *participant.final)}
        )

    def event(self, participant: LiveParticipant, rounds: int) -> PoissonGaussian | None:
        """Return what `rounds` updates cost at the declared noise; None where that is not known or no such event."""
        known = participant.standing.get("noise_multiplier") is not None and participant.non_private is False
        if not known or not rounds or self.scenario.contract.vertical is not None:
            return None
        return event_seen(
            self.scenario, participant.name, participant.standing, rounds, participant.contributed[:rounds]
        )

    def refresh(self) -> bool:
        """Read what is new; return whether anything was."""
        file = self.folder / FILE
        size = file.stat().st_size if file.is_file() else 0
        if size < self._position:
            self._reset()  # the folder was used again
        if size == self._position:
            return False
        with file.open("rb") as stream:
            stream.seek(self._position)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in _parsed(whole):
            try:
                self._fold(line)
            except (ValueError, KeyError, TypeError):
                continue  # of another version, or not ours
        return bool(whole)

    def _fold(self, line: Mapping[str, Any]) -> None:
        event, now = line["event"], float(line["time"])
        self.last = now
        participant = self.participants.get(line.get("participant") or "")
        if event == "start":
            self.started, self.ended, self._end = self.started or now, None, ""
            self._forget_after(int(line["done"]))
        elif event == "asked" and participant:
            participant.waited_since = now
        elif event == "heard" and participant:
            if participant.waited_since is not None:
                participant.seconds.append((line["round"], now - participant.waited_since))
            participant.seen, participant.waited_since = now, None
        elif event == "failure" and participant:
            self._fail(line, participant, now)
        elif event in {"round", "step"}:
            self._finish_round(line)
        elif event == "end":
            self.ended, self._end, self.reason = now, str(line["status"]), str(line["reason"])
            self._stand(line, self.done + 1)  # the closing evaluation
            self._read_final()

    def _forget_after(self, number: int) -> None:
        """Forget what followed a round: the run begins again behind it (a vertical run, from its start)."""
        self.rounds = [each for each in self.rounds if each[0] <= number]
        for participant in self.participants.values():
            participant.waited_since = None
            participant.contributed = [each for each in participant.contributed if each <= number]
            participant.sent = [each for each in participant.sent if each[0] <= number]
            participant.received = [each for each in participant.received if each[0] <= number]
            participant.metrics = {
                k: [each for each in points if each.round < number] for k, points in participant.metrics.items()
            }

    def _fail(self, line: Mapping[str, Any], participant: LiveParticipant, now: float) -> None:
        code = str(line["code"])
        self.failures.append(Failure(now, line["round"], participant.name, code))
        participant.failures += 1
        if code != "LATE_REPLY":
            participant.waited_since = None
        if code not in SILENT and not code.startswith("FLOWER_ERROR"):
            participant.seen = now

    def _finish_round(self, line: Mapping[str, Any]) -> None:
        number = int(line["round"])
        self.rounds.append((number, float(line["seconds"]), len(line["replies"])))
        for name in line["replies"]:
            self.participants[name].contributed.append(number)
        for name, released in line.get("released", {}).items():
            for metric, estimate in released["estimates"].items():  # of the model that the round began with
                self.participants[name].metrics.setdefault(metric, []).append(
                    _point(number - 1, estimate, released["exact"])
                )
        self._stand(line, number)

    def _stand(self, line: Mapping[str, Any], number: int) -> None:
        for name, standing in line.get("members", {}).items():
            participant = self.participants[name]
            participant.standing = standing
            participant.sent.append((number, standing["bytes"]["sent"]))
            participant.received.append((number, standing["bytes"]["received"]))

    def _read_final(self) -> None:
        file = self.folder / "coordinator.json"
        record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"participants": {}}
        for name, seen in record["participants"].items():
            released = seen["released"]
            if released is not None:
                participant = self.participants[name]
                participant.final_exact = bool(released["exact"])
                participant.final = {
                    k: _point(self.done, e, participant.final_exact) for k, e in released["estimates"].items()
                }


def _parsed(data: bytes) -> Iterator[Any]:
    """Yield what stands in each line, many lines at once; a crash may leave half a line, which is left out."""
    lines = data.splitlines()
    for start in range(0, len(lines), _AT_ONCE):
        some = lines[start : start + _AT_ONCE]
        try:
            found = json.loads(b"[" + b",".join(some) + b"]")
        except ValueError:
            found = []
        if len(found) == len(some):
            yield from found
            continue
        for line in some:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _point(number: int, estimate: Mapping[str, Any], exact: bool) -> Point:
    if exact:
        return Point(number, estimate["value"])
    return Point(number, estimate["value"], estimate["low"], estimate["high"])


class Runs:
    """The runs of one folder; `known` is what the last look found, by id."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.known: dict[str, Run] = {}
        self.unreadable: list[str] = []

    def refresh(self) -> list[Run]:
        """Return every run, the newest first, each up to date; what cannot be read is named in `unreadable`."""
        found, self.unreadable = {}, []
        for file in self.root.glob("*/scenario.json") if self.root.is_dir() else ():
            name = file.parent.name
            try:
                run = self.known.get(name) or Run(file.parent)
            except (OSError, ValueError, ConsortiaError):
                self.unreadable.append(name)
                continue
            found[name] = run
            run.refresh()
        self.known = found
        return sorted(found.values(), key=lambda run: (run.started or 0.0, run.id), reverse=True)

    def get(self, run_id: str) -> Run | None:
        """Return one run, up to date; None when there is none of that name."""
        folder = self.root / run_id
        # Only this one is read: the events of all runs would keep its reader waiting.
        if run_id not in self.known and self.root.is_dir() and folder in self.root.iterdir():
            try:
                self.known[run_id] = Run(folder)
            except (OSError, ValueError, ConsortiaError):
                return None
        run = self.known.get(run_id)
        if run is not None:
            run.refresh()
        return run
