"""The asynchronous loop: each participant trains when it is free, and staleness lowers the weight of a reply.

Every group of parameters (an industry, or the whole consortium) has a version and a buffer of replies. The strategy
decides when a group makes a step (`strategies.base.Asynchronous`). A participant's messages are numbered by its own
participations. There are never more of them than the contract says, because its noise was solved for that number. It is
public who took part how often, so privacy is not amplified by it.

Guarantees
----------
* A message waits at most `deadline_seconds`, and is sent at most `attempts` times. A repeated message is the same
  participation with the same model, and the outbox answers it with the same bytes. A participant that lost two
  participations in a row is not asked again. If too few participants are left, the run fails (invariant 13).
* An answer to an older message of the participant is LATE_REPLY. An answer to a model that is more than `max_staleness`
  versions old is TOO_STALE. Both are dropped and recorded with the participant's name.
* The checkpoint holds the buffers, the versions and the open participations. It is written before the next message is
  sent. A resumed run sends the same requests again. With the same order of replies its result is identical to the bit,
  if training itself is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from consortia.common.errors import RunFailedError
from consortia.coordinator.aggregation import honest_bound, members_of, weights_of
from consortia.coordinator.checkpoint import Checkpoint
from consortia.coordinator.mailbox import Correspondence
from consortia.messages.exchange import Answer
from consortia.messages.reply import FINAL
from consortia.terms.scopes import State, for_participant
from strategies.base import Asynchronous, Update

#: After so many participations in a row without a valid reply a participant is not asked again.
_LOST = 2
#: Seconds between two checks of windows and deadlines.
_LOOK = 0.1
#: Seconds before a message that failed at once is sent again; multiplied by the number of attempts.
_PAUSE = 0.5


@runtime_checkable
class Channel(Protocol):
    """What the loop needs from a transport (see `consortia.messages.flower.GridExchange`)."""

    def send(self, kind: str, envelopes: Mapping[str, bytes], deadline: float) -> tuple[dict[str, str], list[Answer]]:
        """Send each envelope. Return the tickets of the sent ones by name, and the reasons for the others."""
        ...

    def receive(self, seconds: float) -> list[tuple[str, Answer]]:
        """Return the answers that came within `seconds`, each with its ticket."""
        ...


@dataclass
class _Work:
    """The open participation of one participant, and the model and versions that it started from."""

    number: int
    start: State
    versions: dict[str, int]
    attempt: int = 1
    ticket: str = ""
    until: float = 0.0
    not_before: float = 0.0


@dataclass(frozen=True)
class _Held:
    """One reply in the buffer of one group."""

    participant: str
    number: int
    version: int
    state: State
    start: State


class AsynchronousLoop:
    """One run.

    Parameters
    ----------
    desk : its transport is a `Channel` too.
    quorum : int
        So many participants must have contributed or still be able to contribute.
    """

    def __init__(self, desk: Correspondence, strategy: Asynchronous, quorum: int) -> None:
        exchange: object = desk.exchange
        if not isinstance(exchange, Channel):
            raise TypeError(
                f"exchange: wanted send and receive for a run without rounds, got {type(exchange).__name__}"
            )
        self._desk = desk
        self._contract = desk.contract
        self._strategy = strategy
        self._channel = exchange
        self._quorum = quorum
        self._told: dict[str, int] = {}
        self._last = 0.0
        self._since: dict[str, float] = {}

    def steps(self, state: Checkpoint) -> Iterator[Checkpoint]:
        """Run to the end. Yield a checkpoint after each change; the caller stores it before the next message is sent.

        Raises
        ------
        RunFailedError
            Fewer participants than the quorum are left, or no group made a step.
        """
        self._restore(state)
        self._assign()
        yield self._checkpoint()
        while self._work:
            self._send()
            for ticket, answer in self._channel.receive(_LOOK):
                if self._take(ticket, answer):  # one by one: answers that come together give the same result
                    self._step()
                    self._assign()
                    yield self._checkpoint()
                    self._send()
                if not self._is_open():
                    return
            if self._expire() | self._step():
                self._assign()
                yield self._checkpoint()
            if not self._is_open():
                return
        if not any(self._versions.values()):
            raise RunFailedError("no group of participants sent enough for one step")

    # What everybody does

    def _is_open(self, group: str | None = None) -> bool:
        versions = self._versions.values() if group is None else [self._versions[group]]
        return any(version < self._contract.rounds for version in versions)

    def _groups(self, name: str) -> list[str]:
        """Return the unfinished groups that the participant shares."""
        return [
            g
            for g, participants in self._participants.items()
            if self._is_open(g) and any(s.name == name for s in participants)
        ]

    def _assign(self) -> None:
        """Start the next participation of every free participant."""
        for name, view in self._desk.participants.items():
            waits = self._strategy.waits_for_step and any(
                held.participant == name for group in self._groups(name) for held in self._buffers[group]
            )
            if (
                name not in self._work
                and view.state not in FINAL
                and self._lost.get(name, 0) < _LOST
                and self._taken.get(name, 0) < self._contract.participations
                and self._groups(name)
                and not waits
            ):
                self._taken[name] = self._taken.get(name, 0) + 1
                start = for_participant(self._models, view.participant.industry)
                self._work[name] = _Work(self._taken[name], start, dict(self._versions))

    def _send(self) -> None:
        now = time.monotonic()
        deadline = self._contract.round.deadline_seconds
        for name, work in list(self._work.items()):
            if work.ticket or work.not_before > now:
                continue
            data = self._desk.envelope("train", work.number, name, work.start, {})
            self._desk.participants[name].bytes_received += len(data)
            tickets, failed = self._channel.send("train", {name: data}, deadline)
            work.ticket, work.until = tickets.get(name, ""), now + deadline
            for answer in failed:
                self._desk.fail(name, work.number, work.attempt, answer.code)
                self._again(name, work)

    def _take(self, ticket: str, answer: Answer) -> bool:
        """Put a valid reply into the buffers. Return whether anything changed."""
        name = answer.participant
        work = self._work.get(name)
        if work is None or work.ticket != ticket:
            self._desk.fail(name, self._taken.get(name, 0), 0, "LATE_REPLY")
            return False
        reply = self._desk.accept(answer, "train", work.number, work.attempt, work.start)
        if reply is None:
            self._again(name, work)
            return True
        del self._work[name]
        self._lost[name] = 0
        for group in self._groups(name):
            behind = self._versions[group] - work.versions[group]
            if behind > self._strategy.max_staleness:
                self._desk.fail(name, work.number, work.attempt, "TOO_STALE", f"{behind} versions of {group} behind")
                continue
            sent, came = ({p: whole[p] for p in self._models[group]} for whole in (work.start, reply))
            self._buffers[group].append(_Held(name, work.number, work.versions[group], came, sent))
        return True

    def _again(self, name: str, work: _Work) -> None:
        """Request the same participation again, or count it as lost."""
        behind = [self._versions[group] - work.versions[group] for group in self._groups(name)]
        final = self._desk.participants[name].state in FINAL
        stale = not behind or min(behind) > self._strategy.max_staleness
        if not final and not stale and work.attempt < self._contract.round.attempts:
            work.attempt += 1
            work.ticket = ""
            work.not_before = time.monotonic() + _PAUSE * (work.attempt - 1)
            return
        self._work.pop(name, None)
        self._lost[name] = self._lost.get(name, 0) + 1
        left = [
            other
            for other, view in self._desk.participants.items()
            if view.rounds_contributed or (view.state not in FINAL and self._lost.get(other, 0) < _LOST)
        ]
        if len(left) < self._quorum:
            reasons = self._desk.last_codes()
            raise RunFailedError(
                f"version {self._total}: wanted at least {self._quorum} participants that answer, got {len(left)} "
                f"({', '.join(reasons)})"
            )

    def _expire(self) -> bool:
        """Request again or give up every participation whose deadline has passed."""
        now = time.monotonic()
        late = [(name, work) for name, work in self._work.items() if work.ticket and now > work.until]
        for name, work in late:
            self._desk.fail(name, work.number, work.attempt, "NO_REPLY")
            self._again(name, work)
        return bool(late)

    # Steps

    def _step(self) -> bool:
        """Make a step with every group that the strategy calls ready."""
        ready = [group for group in self._models if self._is_ready(group)]
        for group in ready:
            self._step_group(group)
        return bool(ready)

    def _is_ready(self, group: str) -> bool:
        held = self._buffers[group]
        working = sum(participant.name in self._work for participant in self._participants[group])
        seconds = time.monotonic() - self._since[group]
        return bool(held) and self._is_open(group) and self._strategy.ready(len(held), working, seconds)

    def _step_group(self, group: str) -> None:
        # Sorted by name and number, so the order of arrival within a buffer does not change the result.
        held = sorted(self._buffers[group], key=lambda one: (one.participant, one.number))
        current, participants = self._models[group], self._participants[group]
        shares = dict(zip((s.name for s in participants), weights_of(self._contract, participants), strict=True))
        total = sum(shares[one.participant] for one in held)
        views = self._desk.participants
        bounded = self._desk.strategy.fit.bound != "no"
        updates = [
            Update(
                one.participant,
                one.state,
                shares[one.participant] / total,
                learning_rate=self._contract.industries[views[one.participant].participant.industry].learning_rate,
                share=shares[one.participant],
                start=one.start,
                staleness=self._versions[group] - one.version,
                bound=honest_bound(self._contract, views[one.participant].participant, one.start)
                if bounded
                else math.inf,
            )
            for one in held
        ]
        self._models[group], self._memory[group] = self._desk.strategy.aggregate(
            current, updates, self._memory.get(group, {})
        )
        self._buffers[group] = []
        self._versions[group] += 1
        now = time.monotonic()
        self._since[group] = now
        line = {
            "round": self._total,
            "seconds": now - self._last,
            "replies": sorted({one.participant for one in held}),
            "too_few_replies": [],
            "failures": self._new_failures(),
            "group": group,
            "version": self._versions[group],
            "participations": max(self._taken.values()),
            "updates": [
                {
                    "participant": update.participant,
                    "participation": one.number,
                    "staleness": update.staleness,
                    "weight": update.weight * self._strategy.staleness_weight(update.staleness),
                }
                for one, update in zip(held, updates, strict=True)
            ],
        }
        self._last = now
        self._history.append(line)

    @property
    def _total(self) -> int:
        return sum(self._versions.values())

    def _new_failures(self) -> list[dict[str, Any]]:
        new = []
        for name, view in self._desk.participants.items():
            new += [{"participant": name, **failure} for failure in view.failures[self._told.get(name, 0) :]]
            self._told[name] = len(view.failures)
        return new

    # Checkpoints

    def _checkpoint(self) -> Checkpoint:
        pending = {f"work:{name}": work.start for name, work in self._work.items()}
        for group, buffer in self._buffers.items():
            for index, held in enumerate(buffer):
                pending |= {f"held:{group}:{index}": held.state, f"start:{group}:{index}": held.start}
        progress = {
            "versions": self._versions,
            "taken": self._taken,
            "lost": self._lost,
            "work": {
                n: {"number": w.number, "versions": w.versions, "attempt": w.attempt} for n, w in self._work.items()
            },
            "buffers": {
                group: [[held.participant, held.number, held.version] for held in buffer]
                for group, buffer in self._buffers.items()
            },
            "members": {name: [m.state, m.rounds_contributed] for name, m in self._desk.participants.items()},
        }
        heads = dict(self._desk.heads.known)
        memory = {group: named for group, named in self._memory.items() if named}
        return Checkpoint(self._total, dict(self._models), memory, {}, list(self._history), heads, pending, progress)

    def _restore(self, state: Checkpoint) -> None:
        kept, pending = state.progress, state.pending
        self._models = dict(state.groups)
        self._memory = dict(state.memory)
        self._history = list(state.history)
        self._participants = {
            group: members_of(self._desk.scenario, group, named) for group, named in self._models.items()
        }
        self._versions: dict[str, int] = kept.get("versions") or dict.fromkeys(self._models, 0)
        self._taken: dict[str, int] = dict(kept.get("taken", {}))
        self._lost: dict[str, int] = dict(kept.get("lost", {}))
        self._work = {name: _Work(start=pending[f"work:{name}"], **work) for name, work in kept.get("work", {}).items()}
        self._buffers = {
            group: [
                _Held(name, number, version, pending[f"held:{group}:{index}"], pending[f"start:{group}:{index}"])
                for index, (name, number, version) in enumerate(kept.get("buffers", {}).get(group, []))
            ]
            for group in self._models
        }
        for name, (condition, contributed) in kept.get("members", {}).items():
            self._desk.participants[name].state = condition
            self._desk.participants[name].rounds_contributed = contributed
        self._told = {}
        self._last = time.monotonic()
        self._since = dict.fromkeys(self._models, self._last)
