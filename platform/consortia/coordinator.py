"""The coordinator's loop: send, wait with a bound, validate, aggregate, checkpoint, record.

It trusts no reply (invariant 12): names, shapes, dtypes, finiteness, declared noise and the round are
checked, whatever fails is attributed to a participant by name and dropped, and one bad reply never ends a
run. Waits are bounded (invariant 13): a deadline and a number of attempts per round, and always a status.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from consortia import clusters
from consortia.aggregation import aggregate, controls, turns
from consortia.checkpoint import Checkpoint, load_latest, save
from consortia.compressed_reply import lengthened, saved_bytes
from consortia.custody import anchor_from
from consortia.errors import RunFailedError, WireError
from consortia.exchange import CONTROL, LOSS, State, check_like, initial_groups
from consortia.heads import Heads
from consortia.member import Member, describe_member
from consortia.receipt import write_json
from consortia.received import Received, read, split
from consortia.reply import FINAL as _FINAL
from consortia.reply import check_account, check_loss
from consortia.scenario import Scenario
from consortia.secure.rounds import SecureRounds
from consortia.stopping import stopped, watched
from consortia.wire import Envelope, decode, encode
from strategies.arithmetic import weighted_mean

RECORD_SCHEMA = 1


@dataclass(frozen=True)
class Answer:
    """What came back for one message: bytes, or the code of why there are none."""

    participant: str
    data: bytes | None
    code: str = ""


#: Sends one envelope to each named participant, waits up to the deadline, returns what came. An answer to an
#: older attempt is returned with code LATE_REPLY.
Exchange = Callable[[str, Mapping[str, bytes], float], Sequence[Answer]]


class Coordinator:
    """One run of one scenario.

    Parameters
    ----------
    scenario : Scenario
        The effective scenario.
    run_id : str
    folder : Path
        Where checkpoints, events and the record go.
    exchange : Exchange
        The transport: the engines differ here and nowhere else.
    heads : Path, optional
        Where the heads of the participants' ledgers are kept across runs.
    """

    def __init__(
        self, scenario: Scenario, run_id: str, folder: Path, exchange: Exchange, heads: Path | None = None
    ) -> None:
        self.scenario = scenario
        self.contract = scenario.contract
        self.run_id = run_id
        self.folder = folder
        self.exchange = exchange
        self.members = {seat.name: Member(seat) for seat in scenario.roster}
        self.strategy = self.contract.strategy.strategy()
        self.quorum = max(1, math.ceil(self.contract.round.quorum * len(scenario.roster)))
        self.history: list[dict[str, Any]] = []
        self.heads = Heads(heads)
        self.secure: SecureRounds | None = None
        if self.contract.trust == "aggregate":
            parts = (self.members, self.heads, self._envelope, self._fail)
            self.secure = SecureRounds(scenario, run_id, folder, exchange, *parts)

    def run(self, *, resume: bool = False) -> dict[str, Any]:
        """Play every round and the closing evaluation; return (and write) the record.

        Raises
        ------
        RunFailedError
            When a round misses its quorum in every attempt. The record and the last checkpoint stay.
        """
        started = time.perf_counter()
        state = load_latest(self.folder) if resume else None
        if state is None:
            groups = initial_groups(self.contract, [seat.industry for seat in self.scenario.roster])
            state = Checkpoint(0, groups, {}, {}, [])
        self.history = list(state.history)
        self.heads.learn(state.heads)
        self._event("start", rounds=self.contract.rounds, done=state.round)
        try:
            if self.secure is not None:
                self.secure.enrol()
            while state.round < self.contract.rounds and not stopped(self.contract.stopping, self.history):
                state = self._round(state)
                save(self.folder, state)
                self.heads.save()
            final = self._final_model(state)
            parts = (self.scenario, self.strategy, final, state.memory)
            save(self.folder, state, final=clusters.final_models(*parts))
            self._evaluate(clusters.models(*parts))
        except RunFailedError as error:
            self._finish("failed", str(error), state.round, started)
            raise
        return self._finish("completed", "", state.round, started)

    def _round(self, state: Checkpoint) -> Checkpoint:
        number = state.round + 1
        started = time.perf_counter()
        if self.secure is not None:
            groups, memory, accepted = self.secure.round(self.strategy, state, number)
            kept: list[str] = []
        else:
            groups, memory, accepted, kept = self._open_round(state, number)
        line = {
            "round": number,
            "seconds": time.perf_counter() - started,
            "replies": sorted(accepted),
            "too_few_replies": kept,
            "failures": [
                {"participant": name, **failure}
                for name, member in self.members.items()
                for failure in member.failures
                if failure["round"] == number
            ],
        }
        between = {name: m.released[number] for name, m in self.members.items() if number in m.released}
        if between:
            line["released"] = {name: received.to_json() for name, received in between.items()}
            if self.contract.stopping is not None:
                line["watched"] = watched(self.contract.stopping, between.values())
        if found := clusters.membership(self.scenario, self.strategy, groups, memory):
            line["clusters"] = found
        self.history.append(line)
        self._event("round", **line)
        mean = self._running_mean(state, number, groups)
        return Checkpoint(number, groups, memory, mean, self.history, dict(self.heads.known))

    def _open_round(
        self, state: Checkpoint, number: int
    ) -> tuple[dict[str, State], dict[str, State], list[str], list[str]]:
        """Play a round of updates that the coordinator sees one by one."""
        models = clusters.models(self.scenario, self.strategy, state.groups, state.memory)
        sent = {name: models[name] for name, member in self.members.items() if member.state not in _FINAL}
        accepted = self._train(number, sent, controls(self.scenario, self.strategy, state))
        declared = {name: float(self.members[name].header["noise_multiplier"]) for name in accepted}
        groups, memory, kept = aggregate(self.scenario, self.strategy, state, accepted, declared)
        return groups, memory, list(accepted), kept

    def _train(self, number: int, sent: Mapping[str, State], control: Mapping[str, State]) -> dict[str, State]:
        """Ask everybody, or those whose turn it is and then the next ones; return validated replies by name."""
        tours = turns(self.scenario, self.strategy, number, sent)
        if not tours:
            return self._ask("train", number, sent, control)
        accepted: dict[str, State] = {}
        while tours and not accepted.keys() >= {tour[0] for tour in tours}:
            asked = {tour[0]: sent[tour[0]] for tour in tours if tour[0] not in accepted}
            accepted |= self._ask("train", number, asked, control, quorum=len(asked))
            tours = [tour if tour[0] in accepted else tour[1:] for tour in tours]
            tours = [tour for tour in tours if tour]
        if not accepted:
            raise RunFailedError(f"round {number}: wanted a reply of one participant, got none of anybody")
        return accepted

    def _ask(
        self,
        kind: str,
        number: int,
        sent: Mapping[str, State],
        control: Mapping[str, State] = MappingProxyType({}),
        quorum: int | None = None,
    ) -> dict[str, State]:
        """Send, validate, and try again until the quorum is there; return validated replies by name.

        With a `quorum` of its own a round that misses it is the caller's affair.
        """
        accepted: dict[str, State] = {}
        wanted = self.quorum if quorum is None else quorum
        terms = self.contract.round
        for attempt in range(1, terms.attempts + 1):
            open_names = [n for n in sent if n not in accepted and self.members[n].state not in _FINAL]
            if not open_names:
                break
            envelopes = {
                name: self._envelope(kind, number, name, sent[name], control.get(name, {})) for name in open_names
            }
            for name, data in envelopes.items():
                self.members[name].bytes_received += len(data)
            answered = set()
            for answer in self.exchange(kind, envelopes, terms.deadline_seconds):
                if answer.participant in self.members:
                    answered.add(answer.participant)
                    self._take(answer, kind, number, attempt, sent, accepted)
            for name in set(open_names) - answered:
                self._fail(name, number, attempt, "NO_REPLY")
            if len(accepted) >= wanted:
                break
        if kind == "train" and quorum is None and len(accepted) < wanted:
            reasons = sorted({m.failures[-1]["code"] for m in self.members.values() if m.failures})
            raise RunFailedError(
                f"round {number}: wanted replies of at least {self.quorum} participants, got {len(accepted)} "
                f"after {terms.attempts} attempts ({', '.join(reasons) or 'nobody left to ask'})"
            )
        return accepted

    def _take(
        self,
        answer: Answer,
        kind: str,
        number: int,
        attempt: int,
        sent: Mapping[str, State],
        accepted: dict[str, State],
    ) -> None:
        member = self.members[answer.participant]
        if answer.data is None:
            self._fail(answer.participant, number, attempt, answer.code)
            return
        member.bytes_sent += len(answer.data)
        try:
            envelope = decode(answer.data)
            tensors, received = self._validate(envelope, kind, number, answer.participant, sent)
        except (WireError, ValueError) as error:
            self._fail(answer.participant, number, attempt, "BAD_REPLY", str(error))
            return
        status = envelope.header["status"]
        if status in _FINAL:
            member.state = status
            self._fail(answer.participant, number, attempt, envelope.header.get("code", status)[:40])
        elif status == "FAILED":
            incident = envelope.header.get("incident", "")[:16]
            self._fail(answer.participant, number, attempt, "PARTICIPANT_ERROR", f"incident {incident}")
        else:
            member.header = dict(envelope.header)
            self.heads.take(answer.participant, envelope.header)
            accepted[answer.participant] = tensors
            if self.contract.compression is not None and kind == "train":
                member.bytes_saved += saved_bytes(envelope.tensors, tensors)
            if received is not None:
                member.released[number] = received
            member.rounds_contributed += kind == "train"

    def _validate(
        self, envelope: Envelope, kind: str, number: int, name: str, sent: Mapping[str, State]
    ) -> tuple[State, Received | None]:
        header = envelope.header
        status = header.get("status")
        if header.get("participant") != name:
            raise ValueError("the reply names another participant than the key that sent it")
        if status in _FINAL or status == "FAILED":
            if envelope.tensors:
                raise ValueError(f"status {status} carries parameters")
            return {}, None
        wanted = {
            "status": "OK" if kind == "train" else "EVALUATED",
            "kind": kind,
            "run": self.run_id,
            "round": str(number),
            "contract": self.contract.sha256(),
        }
        for key, value in wanted.items():
            if header.get(key) != value:
                raise ValueError(f"{key}: wanted {value!r}, got {str(header.get(key))[:80]!r}")
        check_account(header)
        anchor_from(dict(header))
        reply, metrics = split(lengthened(self.contract, kind, envelope.tensors, sent[name]))
        if kind == "train":
            check_like(sent[name], {n: t for n, t in reply.items() if n != LOSS})
            check_loss(self.strategy, reply.get(LOSS))
        else:
            check_like({}, reply)
        due = self.contract.evaluation.due(kind, number)
        return reply, read(header, metrics, self.contract, self.members[name].seat.industry, due)

    def _fail(self, name: str, number: int, attempt: int, code: str, detail: str = "") -> None:
        failure = {"round": number, "attempt": attempt, "code": code, "detail": detail[:200]}
        self.members[name].failures.append(failure)
        self._event("failure", participant=name, **failure)

    def _running_mean(self, state: Checkpoint, number: int, groups: Mapping[str, State]) -> dict[str, State]:
        """Return the mean of the last `average_last` models so far: post-processing of what was released."""
        last = self.contract.strategy.average_last
        first = max(1, self.contract.rounds - last + 1)
        if last == 1 or number < first:
            return {}
        if number == first:
            return dict(groups)
        seen = number - first
        return {group: weighted_mean([state.average[group], new], [seen, 1]) for group, new in groups.items()}

    def _final_model(self, state: Checkpoint) -> dict[str, State]:
        return state.average if self.contract.strategy.average_last > 1 else state.groups

    def _evaluate(self, models: Mapping[str, State]) -> None:
        number = self.contract.rounds + 1
        for member in self.members.values():
            if member.state == "RECEIVE_ONLY":
                member.state = "ACTIVE"  # it gets the model; all it can answer is the code again
        sent = {name: models[name] for name, member in self.members.items() if member.state != "REFUSED"}
        self._ask("evaluate", number, sent)

    def _envelope(
        self,
        kind: str,
        number: int,
        name: str,
        model: State,
        control: State,
        extra: Mapping[str, str] = MappingProxyType({}),
    ) -> bytes:
        seat = self.members[name].seat
        proposal = {
            "dataset": seat.dataset,
            "epsilon": None if seat.non_private else seat.epsilon,
            "delta": seat.delta,
        }
        header = {
            "kind": kind,
            "participant": name,
            "industry": seat.industry,
            "run": self.run_id,
            "round": str(number),
            "contract": self.contract.canonical(),
            "proposal": json.dumps(proposal, sort_keys=True),
            **self.heads.header(name),
            **extra,
        }
        return encode(Envelope(header, model | {CONTROL + p: tensor for p, tensor in control.items()}))

    def _event(self, event: str, **values: Any) -> None:
        """Append a line to the run's public event file (progress, dashboards)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "time": time.time(), **values}) + "\n")

    def _finish(self, status: str, reason: str, rounds: int, started: float) -> dict[str, Any]:
        record = {
            "schema": RECORD_SCHEMA,
            "run_id": self.run_id,
            "scenario": self.scenario.name,
            "contract_sha256": self.contract.sha256(),
            "status": status,
            "reason": reason,
            "rounds": rounds,
            "seconds": time.perf_counter() - started,
            "participants": {name: describe_member(member) for name, member in self.members.items()},
            "history": self.history,
        }
        self.heads.save()
        write_json(self.folder / "coordinator.json", record)
        self._event("end", status=status, reason=reason)
        return record
