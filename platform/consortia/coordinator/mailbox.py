"""Writes messages to participants, sends them, repeats them, and checks the replies. Every mode of a run uses it.

It trusts no reply (invariant 12). Names, shapes, dtypes, finiteness, declared noise and the round are checked. A reply
that fails a check is dropped, and the failure is recorded with the participant's name.
"""

from __future__ import annotations

import bisect
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from consortia.common import disk
from consortia.common.disk import write_json
from consortia.common.errors import WireError
from consortia.coordinator import forecast
from consortia.coordinator.event_file import EventFile
from consortia.coordinator.ledger_heads import Heads
from consortia.coordinator.participant_view import ParticipantView, describe, standings
from consortia.coordinator.received_metrics import Received, read, split
from consortia.coordinator.sums import honest_norms
from consortia.messages import size_release
from consortia.messages.blocks import check_blocks
from consortia.messages.compressed_reply import lengthened, saved_bytes
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.exchange import Answer, Exchange
from consortia.messages.ledger_anchor import anchor_from
from consortia.messages.reply import FINAL, check_account, check_loss
from consortia.messages.request import READY
from consortia.terms.contract import Contract
from consortia.terms.recipe import blocks_of
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import CONTROL, LOSS, State, check_like

RECORD_SCHEMA = 1


def header_to(
    participant: RosterParticipant, kind: str, run_id: str, contract: Contract, heads: Heads
) -> dict[str, str]:
    """Return the header fields of every message to a participant: the contract, the proposal, the head of its
    ledger."""
    proposal = {
        "dataset": participant.dataset,
        "epsilon": None if participant.non_private else participant.epsilon,
        "delta": participant.delta,
        **({"unit": participant.unit} if participant.unit else {}),
    }
    return {
        "kind": kind,
        "participant": participant.name,
        "industry": participant.industry,
        "run": run_id,
        "contract": contract.canonical(),
        "proposal": json.dumps(proposal, sort_keys=True),
        **heads.header(participant.name),
    }


def is_refusal(envelope: Envelope, name: str) -> bool:
    """Return whether a reply has a status without content. ValueError if it names another participant, or carries
    content anyway."""
    if envelope.header.get("participant") != name:
        raise ValueError("the reply names another participant than the key that sent it")
    status = envelope.header.get("status")
    if status not in FINAL and status != "FAILED":
        return False
    if envelope.tensors:
        raise ValueError(f"status {status} carries content")
    return True


def check_answers(header: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raise ValueError unless a reply's header matches the sent message and names the state of the participant's
    ledger."""
    check_same(header, wanted)
    anchor_from(dict(header))


def check_same(header: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Raise ValueError unless a reply's header has all these values."""
    for key, value in wanted.items():
        if header.get(key) != value:
            raise ValueError(f"{key}: wanted {value!r}, got {str(header.get(key))[:80]!r}")


class Mailbox:
    """The messages of one run: attempts, deadlines, counts of bytes, failures by name, and the record.

    Parameters
    ----------
    folder : Path
        Folder of the run's public event file and its record.
    exchange : Exchange
        The transport. It is the only difference between the engines.
    heads : Path or None
        File of the ledgers' heads across runs.
    """

    def __init__(self, scenario: Scenario, run_id: str, folder: Path, exchange: Exchange, heads: Path | None) -> None:
        self.scenario = scenario
        self.contract = scenario.contract
        self.run_id = run_id
        self.folder = folder
        self.exchange = exchange
        self.participants = {participant.name: ParticipantView(participant) for participant in scenario.roster}
        self.heads = Heads(heads)
        self.event = EventFile(folder, run_id)

    def attempts(self, open_names: Callable[[], Iterable[str]]) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of each attempt and whom it asks, at most `round.attempts`, while somebody is left to ask.

        After an attempt it waits as long as that attempt took, times 1, 2, 4 and so on, within the attempt's deadline.
        A failure that comes at once (a full disk, a killed process) may need some time to be repaired.
        """
        terms, pause = self.contract.round, 0.0
        for attempt in range(1, terms.attempts + 1):
            names = list(open_names())
            if not names:
                return
            time.sleep(pause)
            asked_at = time.monotonic()
            yield attempt, names
            took = time.monotonic() - asked_at
            pause = max(0.0, min(took * 2 ** (attempt - 1), terms.deadline_seconds - took))

    def post(self, kind: str, number: int, attempt: int, envelopes: Mapping[str, bytes]) -> Iterator[Answer]:
        """Send one envelope to each named participant. Yield each answer that comes within `round.deadline_seconds`.

        A participant without an answer by then fails with NO_REPLY. An answer to an older message does not count.

        Parameters
        ----------
        kind : str
            Kind of the transport's messages.
        """
        for name, data in envelopes.items():
            self.participants[name].bytes_received += len(data)
        silent = dict.fromkeys(envelopes)
        for answer in self.exchange(kind, envelopes, self.contract.round.deadline_seconds):
            if answer.participant in envelopes:
                if answer.code != "LATE_REPLY":
                    silent.pop(answer.participant, None)
                yield answer
        for name in silent:
            self.fail(name, number, attempt, "NO_REPLY")

    def heard(self, name: str, data: bytes, kind: str, number: int) -> None:
        """Count the bytes of an answer, valid or not."""
        self.participants[name].bytes_sent += len(data)
        self.event("heard", round=number, participant=name, kind=kind, bytes=len(data))

    def fail(self, name: str, number: int, attempt: int, code: str, detail: str = "") -> None:
        """Record a failure of a participant."""
        failure: dict[str, Any] = {"round": number, "attempt": attempt, "code": code, "detail": detail[:200]}
        self.participants[name].failures.append(failure)
        self.event("failure", participant=name, **failure)

    def last_codes(self, names: Iterable[str] | None = None) -> list[str]:
        """Return the sorted codes of the last failures, of everybody or of `names`."""
        views = self.participants.values() if names is None else [self.participants[name] for name in names]
        return sorted({view.failures[-1]["code"] for view in views if view.failures})

    def finish(
        self,
        status: str,
        reason: str,
        rounds: int,
        started: float,
        history: Sequence[Mapping[str, Any]],
        extra: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """Write and return the coordinator's record of the run.

        Parameters
        ----------
        started : float
            Start of the run, from `time.perf_counter`.
        """
        record = {
            "schema": RECORD_SCHEMA,
            "run_id": self.run_id,
            "scenario": self.scenario.name,
            "contract_sha256": self.contract.sha256(),
            "status": status,
            "reason": reason,
            "rounds": rounds,
            "seconds": time.perf_counter() - started,
            "participants": {name: describe(view) for name, view in self.participants.items()},
            "history": history,
            **extra,
        }
        self.heads.save()
        with disk.kept(self.folder):
            write_json(self.folder / "coordinator.json", record)
        self.event("end", status=status, reason=reason, members=standings(self.participants))
        return record


class Correspondence(Mailbox):
    """The messages of a horizontal run, and the allowed content of its replies. Parameters are those of `Mailbox`."""

    def __init__(self, scenario: Scenario, run_id: str, folder: Path, exchange: Exchange, heads: Path | None) -> None:
        super().__init__(scenario, run_id, folder, exchange, heads)
        self.strategy = scenario.contract.strategy.strategy()
        self._told = self.event.last_round()
        self._forecasts = forecast.announced(scenario, folder)

    def envelope(
        self,
        kind: str,
        number: int,
        name: str,
        model: State,
        control: State,
        extra: Mapping[str, str] = MappingProxyType({}),
    ) -> bytes:
        fixed = header_to(self.participants[name].participant, kind, self.run_id, self.contract, self.heads)
        told = {"forecast": json.dumps(self._forecasts[name])} if name in self._forecasts else {}
        header = {**fixed, "round": str(number), **told, **extra}
        data = encode(Envelope(header, model | {CONTROL + p: tensor for p, tensor in control.items()}))
        self.event("asked", round=number, participant=name, kind=kind, bytes=len(data))
        return data

    def tell_rounds(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write every round of the history that the event file lacks, with the state of every participant.

        The history is that of a checkpoint on disk. If a coordinator is killed between the checkpoint and this call,
        the resumed one writes the round. No round is written twice.
        """
        for line in history[bisect.bisect(history, self._told, key=itemgetter("round")) :]:
            self.event("round", **line, members=standings(self.participants))
            self._told = line["round"]

    def accept(self, answer: Answer, kind: str, number: int, attempt: int, sent: State) -> State | None:
        """Return the tensors of a valid reply. Otherwise record the failure with the participant's name and return
        None.

        Parameters
        ----------
        number : int
            Number of the message: the round, or the participant's own count.
        sent : State
            The model that the message carried.
        """
        name = answer.participant
        view = self.participants[name]
        if answer.data is None:
            self.fail(name, number, attempt, answer.code)
            return None
        self.heard(name, answer.data, kind, number)
        try:
            envelope = decode(answer.data)
            tensors, received = self._validate(envelope, kind, number, name, sent)
        except (WireError, ValueError) as error:
            self.fail(name, number, attempt, "BAD_REPLY", str(error))
            return None
        status = envelope.header["status"]
        if status in FINAL:
            view.state = status
            self.fail(name, number, attempt, envelope.header.get("code", status)[:40])
            return None
        if status == "FAILED":
            incident = envelope.header.get("incident", "")[:16]
            self.fail(name, number, attempt, "PARTICIPANT_ERROR", f"incident {incident}")
            return None
        if kind == READY:
            return tensors
        view.header = dict(envelope.header)
        self.heads.take(name, envelope.header)
        if self.contract.of(view.participant.industry).compression is not None and kind == "train":
            view.bytes_saved += saved_bytes(envelope.tensors, tensors)
        if received is not None:
            view.released[number] = received
        view.rounds_contributed += kind == "train"
        return tensors

    def _validate(
        self, envelope: Envelope, kind: str, number: int, name: str, sent: State
    ) -> tuple[State, Received | None]:
        header = envelope.header
        if is_refusal(envelope, name):
            return {}, None
        wanted = {
            "status": {"train": "OK", READY: "READY"}.get(kind, "EVALUATED"),
            "kind": kind,
            "run": self.run_id,
            "round": str(number),
            "contract": self.contract.sha256(),
        }
        check_answers(header, wanted)
        if kind == READY:
            check_like({}, envelope.tensors)
            return {}, None
        check_account(header)
        contract = self.contract.of(self.participants[name].participant.industry)
        tensors, size = size_release.take(envelope.tensors, contract, kind)
        reply, metrics = split(lengthened(contract, kind, tensors, sent))
        if kind == "train" and contract.noisy_sums is not None:
            participant, multiplier = self.participants[name].participant, float(header["noise_multiplier"])
            longest = honest_norms(contract, participant, number, multiplier)
            check_blocks(blocks_of(contract, participant.industry), number, reply, longest)
        elif kind == "train":
            check_like(sent, {n: t for n, t in reply.items() if n != LOSS})
            check_loss(contract.strategy.strategy(), reply.get(LOSS))
        else:
            check_like({}, reply)
        due = contract.evaluation.due(kind, number)
        received = read(header, metrics, contract, self.participants[name].participant.industry, due)
        self.participants[name].size = size or self.participants[name].size
        return reply, received
