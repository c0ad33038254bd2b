"""The coordinator of a vertical run: six steps, every message between participants sealed.

It relays bytes that it cannot read, limits every wait, and records sizes, times and codes of every participant. A
partner that fails is left out from then on. Without the label owner, or without any partner, the run ends. If a partner
of a masked sum drops out after the masks were agreed, another attempt starts with new masks among the remaining
partners.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from consortia.common.errors import RunFailedError, WireError
from consortia.coordinator.event_file import told
from consortia.coordinator.mailbox import Mailbox, check_answers, header_to, is_refusal
from consortia.coordinator.participant_view import ParticipantView, restore, standings
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.exchange import Answer, Exchange
from consortia.messages.reply import FINAL, check_budget
from consortia.terms.scenario import Scenario
from consortia.vertical.request import STEPS

__all__ = ["MESSAGE_TYPES", "VerticalCoordinator"]

#: Flower's message types, one for each step.
MESSAGE_TYPES = {step: f"query.{step}" for step in STEPS}
#: Steps whose answers a message to the label owner carries.
_CARRIES = {"blind": "hello", "label": "match", "stack": "assist"}
#: The history's name of each step.
_TOLD = ("round", "step", "batch", "seconds", "replies", "failures")
_GREETING = 96
_SEAL = 28  # nonce and tag
Tensors = Mapping[str, torch.Tensor]


class VerticalCoordinator(Mailbox):
    """One run of one vertical scenario; parameters as `Mailbox`."""

    def __init__(
        self, scenario: Scenario, run_id: str, folder: Path, exchange: Exchange, heads: Path | None = None
    ) -> None:
        assert scenario.contract.vertical is not None
        super().__init__(scenario, run_id, folder, exchange, heads)
        self.terms = scenario.contract.vertical
        self.history: list[dict[str, Any]] = []
        self._answered: dict[tuple[str, int], set[str]] = {}

    def run(self, *, resume: bool = False, batches: int | None = None) -> dict[str, Any]:
        """Run every step. Write and return the record. Participants answer repeated messages from their outboxes.

        Parameters
        ----------
        resume : bool
            Continue this run after the finished batches. If answers of some partners were already sent to the label
            owner, only these partners are asked again. Another set of partners would be another release of the
            labels and of a masked sum.
        batches : int, optional
            Number of batches of new persons to score; by default all batches of the contract.

        Raises
        ------
        RunFailedError
            The label owner refused or failed, or no partner is left. The record stays.
        """
        finished = 0
        if resume:
            lines = told(self.folder)
            self._answered = answered_before(lines)
            finished, self.history = finished_before(lines, self.participants)
        started = time.perf_counter()
        last = self.terms.batches if batches is None else batches
        self.event("start", rounds=(last + 1) * len(STEPS), done=len(self.history))
        try:
            for batch in range(finished, last + 1):
                self._batch(batch)
        except RunFailedError as error:
            self.finish("failed", str(error), len(self.history), started, self.history)
            raise
        except BaseException:  # `finish` saves the heads in all other cases
            self.heads.save()
            raise
        return self.finish("completed", "", len(self.history), started, self.history)

    def _batch(self, batch: int) -> None:
        owner = self.terms.label_owner
        trained = self._answered.get(("assist", 0), set(self.terms.partners))
        active = [name for name in self.terms.partners if self.participants[name].state == "ACTIVE"]
        partners = [name for name in active if batch == 0 or name in trained]
        greetings = self._ask("hello", batch, {name: {} for name in partners})
        keys = {f"greeting/{name}": tensors[f"greeting/{name}"] for name, tensors in greetings.items()}
        blinded = self._ask("blind", batch, {owner: keys})[owner]
        keys[f"greeting/{owner}"] = blinded[f"greeting/{owner}"]
        lists = self._ask("match", batch, {name: _for(name, owner, keys, blinded) for name in greetings})
        back = {f"sealed/{name}": tensors[f"sealed/{owner}"] for name, tensors in lists.items()}
        known = {name: keys[f"greeting/{name}"] for name in lists}
        labels = self._ask("label", batch, {owner: _keyed(known) | back})[owner]
        scores = self._assist(batch, keys, labels, list(lists))
        self._answered.setdefault(("assist", batch), set(scores))
        known = {name: keys[f"greeting/{name}"] for name in scores}
        self._ask("stack", batch, {owner: _keyed(known) | scores_by(scores, owner)})

    def _assist(self, batch: int, keys: Tensors, labels: Tensors, present: list[str]) -> dict[str, Tensors]:
        """Request scores. In a masked sum start again without the failed partners, until all remaining ones answer."""
        owner = self.terms.label_owner
        sent = self._answered.get(("assist", batch))
        present = [name for name in present if sent is None or name in sent]
        for attempt in range(1, self.contract.round.attempts + 1):
            everyone = _keyed({name: keys[f"greeting/{name}"] for name in (*present, owner)})
            scores = self._ask(
                "assist", batch, {name: _for(name, owner, everyone, labels) for name in present}, attempt
            )
            if not self.terms.secure_sum or len(scores) == len(present):
                return scores
            present = [name for name in present if name in scores]
            if len(present) < 2:
                raise RunFailedError("assist: wanted two or more partners for a masked sum; a sum of one hides nothing")
        raise RunFailedError(
            f"assist: wanted a masked sum of the same partners in round.attempts = {self.contract.round.attempts}, but "
            f"somebody left each; {', '.join(present)} are left, so resume the run"
        )

    def _ask(self, kind: str, batch: int, sent: Mapping[str, Tensors], attempt: int = 1) -> dict[str, Tensors]:
        """Send one step, repeat it within the limits, and return validated replies by name."""
        started = time.perf_counter()
        accepted: dict[str, Tensors] = {}
        known = self._answered.get((kind, batch))
        sent = {name: tensors for name, tensors in sent.items() if known is None or name in known}

        def open_names() -> list[str]:
            return [n for n in sent if n not in accepted and self.participants[n].state == "ACTIVE"]

        for _, names in self.attempts(open_names):
            envelopes = {name: self._envelope(kind, batch, attempt, name, sent[name]) for name in names}
            for answer in self.post(MESSAGE_TYPES[kind], batch + 1, 1, envelopes):
                self._take(answer, kind, batch, sent[answer.participant], accepted)
        for name in open_names():
            self.participants[name].state = "LEFT_OUT"
        line: dict[str, Any] = {
            "round": len(self.history) + 1,
            "step": kind,
            "batch": batch,
            "seconds": time.perf_counter() - started,
            "replies": sorted(accepted),
            "failures": [],
        }
        self.history.append(line)
        self.event("step", **line, members=standings(self.participants))
        if not accepted:
            codes = self.last_codes(sent)
            raise RunFailedError(f"{kind}: wanted a reply of the {STEPS[kind]}, got none ({', '.join(codes) or '-'})")
        if missing := sorted(self._needed(kind, batch) - set(accepted)):
            codes = self.last_codes(missing)
            raise RunFailedError(
                f"{kind}: wanted {', '.join(missing)} again, got no answer ({', '.join(codes) or '-'}); what the label "
                "owner has was made with them, and without them it would be another release. Resume when they are back"
            )
        return accepted

    def _needed(self, kind: str, batch: int) -> set[str]:
        """Return the partners whose answers to a step are necessary for the batch.

        The label owner answers the same message as before, or charges it again. A masked sum has the same partners in
        all batches as in training. A person may be in two batches, and two sums over different partners would show the
        scores of those who are in only one of them.
        """
        needed: set[str] = set()
        if kind in {"hello", "match"} and ("match", batch) in self._answered:
            needed |= self._answered[kind, batch]
        if STEPS[kind] == "partner" and self.terms.secure_sum:
            needed |= self._answered.get(("assist", 0), set())
        return needed

    def _take(self, answer: Answer, kind: str, batch: int, sent: Tensors, accepted: dict[str, Tensors]) -> None:
        name, number = answer.participant, batch + 1
        view = self.participants[name]
        if answer.data is None:
            self.fail(name, number, 1, answer.code)
            return
        self.heard(name, answer.data, kind, number)
        try:
            envelope = decode(answer.data)
            tensors = self._validate(envelope, kind, batch, name, sent)
        except (WireError, ValueError) as error:
            self.fail(name, number, 1, "BAD_REPLY", str(error))
            return
        status = envelope.header["status"]
        if status in FINAL:
            view.state = status
            self.fail(name, number, 1, envelope.header.get("code", status)[:40])
        elif status == "FAILED":
            self.fail(name, number, 1, "PARTICIPANT_ERROR", envelope.header.get("incident", "")[:16])
        else:
            accepted[name] = tensors
            self.heads.take(name, envelope.header)
            if kind in {"label", "assist"} and batch == 0:
                view.header = {**envelope.header, "noise_multiplier": "0.0"}
                view.rounds_contributed = 1

    def _validate(self, envelope: Envelope, kind: str, batch: int, name: str, sent: Tensors) -> dict[str, torch.Tensor]:
        """Raise ValueError unless the reply belongs to this step and its bytes have a possible size."""
        header, tensors = envelope.header, dict(envelope.tensors)
        if is_refusal(envelope, name):
            return {}
        wanted = {
            "status": {"hello": "GREETED", "stack": "DONE"}.get(kind, "OK"),
            "kind": kind,
            "run": self.run_id,
            "round": str(batch + 1),
            "contract": self.contract.sha256(),
        }
        check_answers(header, wanted)
        check_budget(header, pure=True)
        owner = self.terms.label_owner
        allowed = {f"greeting/{name}"} if kind in {"hello", "blind"} else set()
        receivers = self.terms.partners if name == owner else (owner,)
        allowed |= {f"sealed/{receiver}" for receiver in receivers}
        # The longest sealed message: a list of points, with or without a label for each row.
        most = 33 * self.terms.largest_set + _SEAL + 1000
        for key, tensor in tensors.items():
            if key not in allowed or tensor.dtype != torch.uint8 or tensor.dim() != 1 or tensor.numel() > most:
                raise ValueError(f"{key[:40]}: wanted sealed bytes for a participant of the contract")
            if key.startswith("greeting/") and tensor.numel() != _GREETING:
                raise ValueError(f"{key}: wanted {_GREETING} bytes")
        needed = {f"greeting/{name}"} if kind in {"hello", "blind"} else set()
        if kind in {"match", "assist"}:
            needed.add(f"sealed/{owner}")
        elif kind in {"blind", "label"}:
            needed |= {key.replace("greeting/", "sealed/") for key in sent if key.startswith("greeting/")}
        if needed - set(tensors):
            raise ValueError(f"wanted {', '.join(sorted(needed))}; not all of it is there")
        return tensors

    def _envelope(self, kind: str, batch: int, attempt: int, name: str, tensors: Tensors) -> bytes:
        fixed = header_to(self.participants[name].participant, kind, self.run_id, self.contract, self.heads)
        header = {**fixed, "batch": str(batch), "attempt": str(attempt)}
        data = encode(Envelope(header, tensors))
        self.event("asked", round=batch + 1, participant=name, kind=kind, bytes=len(data))
        return data


def answered_before(lines: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int], set[str]]:
    """Return the partners whose answers were sent to the label owner, by step and batch.

    Two masked sums over different sets of partners would show the scores of those who are in only one of them. The
    event file has every message before it is sent, so it also covers the messages of a killed coordinator.
    """
    latest: dict[tuple[str, int], set[str]] = {}
    sent: dict[tuple[str, int], set[str]] = {}
    for line in lines:
        if line["event"] == "step" and line["replies"]:
            latest[line["step"], line["batch"]] = set(line["replies"])
        elif line["event"] == "asked" and line["kind"] in _CARRIES:
            key = (_CARRIES[line["kind"]], line["round"] - 1)
            if line["kind"] == "blind" and ("match", key[1]) not in sent:
                sent[key] = latest[key]  # then only an intersection would be charged again
            sent.setdefault(key, latest[key])  # the first labels and the first sum are decisive
    return sent


def finished_before(
    lines: Iterable[dict[str, Any]], participants: Mapping[str, ParticipantView]
) -> tuple[int, list[dict[str, Any]]]:
    """Return the number of finished batches and their history. Restore the declarations of every participant."""
    steps: dict[int, list[dict[str, Any]]] = {}
    finished: list[dict[str, Any]] = []
    batches = 0
    for line in lines:
        if line["event"] != "step":
            continue
        if line["step"] == "hello":
            steps[line["batch"]] = []
        steps[line["batch"]].append(line)
        if line["step"] == "stack" and line["replies"] and line["batch"] == batches:
            finished += steps[batches]
            batches += 1
    for name, stood in finished[-1]["members"].items() if finished else ():
        restore(participants[name], stood)
    return batches, [{**{key: line[key] for key in _TOLD}, "round": n} for n, line in enumerate(finished, start=1)]


def _keyed(greetings: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"greeting/{name}": tensor for name, tensor in greetings.items()}


def _for(name: str, owner: str, keys: Tensors, message: Tensors) -> dict[str, torch.Tensor]:
    """Return the content for one partner: the keys of all others, and what the label owner sealed for it."""
    others: Iterable[tuple[str, torch.Tensor]] = ((k, v) for k, v in keys.items() if k != f"greeting/{name}")
    return {**dict(others), f"sealed/{owner}": message[f"sealed/{name}"]}


def scores_by(scores: Mapping[str, Tensors], owner: str) -> dict[str, torch.Tensor]:
    """Return the sealed scores by their sender."""
    return {f"sealed/{name}": tensors[f"sealed/{owner}"] for name, tensors in scores.items()}
