"""One step of a vertical run at a participant: check, charge, work, store, release.

Guarantees
----------
* The invariants of `consortia.participant.handle` hold. Without a policy or a ledger, or with a contract that the
  policy does not allow, the reply is a refusal code. Everything that leaves was reserved before and is sent from the
  outbox. A repeated request gets the same bytes and costs nothing.
* Each data set has three separate accounts: `/intersection` (who is in the set), `/labels` (change one label),
  `/scores` (replace one row). The owner's policy limits intersections and label messages for the life of the data set.
* All content that leaves is sealed for a pinned key. The coordinator sees new public keys, the fields of `Work.header`,
  sizes, times and who takes part.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from clients import holdings
from clients.dataset import RECORD
from clients.errors import QuarantineError
from clients.masking import SourceText
from clients.schema import QuarantineReport
from clients.sources import parse_source
from consortia.common.errors import RefusedError
from consortia.messages.envelope import Envelope, encode, message_key
from consortia.messages.ledger_anchor import to_header
from consortia.participant import ledger_witness, lifetimes, unpaid_requests
from consortia.participant.agreement import check_signed
from consortia.participant.home import Home
from consortia.terms.policy import DatasetTerms, check_contract
from consortia.terms.vertical_policy import VerticalPolicy
from consortia.vertical import psi
from consortia.vertical.channel import Greeting, Session
from consortia.vertical.request import Step
from consortia.vertical.store import Store
from privacy.egress import Release, gate
from privacy.errors import (
    BudgetExhaustedError,
    ContractMismatchError,
    PlanError,
    PrivacyError,
    RetriesExhaustedError,
)
from privacy.events import Event, NonPrivate
from privacy.ledger import Anchor, Budget, Ledger, Reservation, RunPlan

__all__ = ["SECOND_HALF", "Work", "as_tensor"]

log = logging.getLogger("consortia.participant")

#: The label owner's second message of a batch of new persons. It is a separate event of an intersection that is already
#: counted.
SECOND_HALF = "which new persons are asked about"
#: Minimum length in bytes. With a shorter key somebody who has the hashes could try all keys.
SHORTEST_KEY = 16


class Work:
    """The work on one step. `Owner` and `Partner` implement the steps."""

    def __init__(self, step: Step, home: Home, source: str | None) -> None:
        self.step = step
        self.home = home
        self.policy = home.read_policy()
        terms = check_contract(self.policy, step.contract, step.industry, step.proposal)
        check_signed(home, self.policy, step.contract, step.proposal)
        self.terms: DatasetTerms = terms.model_copy(update={"source": SourceText(source)}) if source else terms
        if terms.unit != RECORD:
            # A unit with several rows has several labels and scores, but the events of this mode count one.
            raise RefusedError(
                "BAD_POLICY",
                f"dataset.{step.proposal.dataset}.unit: wanted {RECORD!r} in vertical mode, got {terms.unit!r}",
            )
        self.own: VerticalPolicy = self._own_terms()
        self.case = holdings.get(step.terms.case)
        self.holding = self.case.holding(step.industry)
        self.dataset = step.proposal.dataset
        self.session = Session(step.contract.sha256(), step.run_id, step.batch)
        run = unpaid_requests.run_folder(home, home.open_ledger(), step.run_id, self.policy.limits)
        self.store = Store(run / f"vertical-{step.batch}", run / "steps.jsonl")
        self.trained = Store(run / "vertical-0", run / "steps.jsonl")
        self.greeting = Greeting(home.kept, self.store.folder / "session.key", self.session, home.participant)
        where = (step.run_id, str(step.batch), str(step.attempt), step.kind, step.industry, self.dataset)
        self.key = message_key(step.tensors, *where, step.contract_json)
        self.anchor: Anchor | None = None

    def _own_terms(self) -> VerticalPolicy:
        own, terms = self.policy.vertical, self.step.terms
        if own is None:
            raise RefusedError("VERTICAL_NOT_ALLOWED", "the policy has no [vertical]")
        if (own.label, own.purpose) != (terms.label, terms.purpose):
            raise RefusedError(
                "LABEL_NOT_ALLOWED",
                f"vertical.label and purpose: the policy allows {own.label!r} for {own.purpose!r}, the contract wants "
                f"{terms.label!r} for {terms.purpose!r}",
            )
        if terms.largest_set > own.set_size_cap:
            raise RefusedError("SET_TOO_LARGE", f"vertical.set_size_cap = {own.set_size_cap}, the contract allows more")
        return own

    def answer(self) -> bytes:
        """Return the reply from the outbox if there is one; otherwise do the step."""
        ledger = self.home.open_ledger()
        ledger_witness.check(self.home, ledger, self.step.anchor)
        ledger_witness.note_budget(ledger, self.policy)
        lifetimes.settle(ledger, self.policy, self.dataset, self.terms.source)
        self.anchor = ledger.anchor()
        for account in ("intersection", "labels", "scores"):
            stored = ledger.reply(self.account(account), self.round, self.key)
            if stored is not None:
                return stored
        reply: bytes = getattr(self, self.step.kind)(ledger)
        return reply

    def account(self, name: str) -> str:
        """Return the run id of an account. No message can name it, because a run id has no slash."""
        return f"{self.step.run_id}/{name}"

    @property
    def round(self) -> int:
        """The ledger's round: one for each batch."""
        return self.step.batch + 1

    # Rows

    @cached_property
    def rows(self) -> holdings.Encoded:
        """The checked and encoded rows of this batch."""
        if self.terms.mapping:
            raise RefusedError("BAD_POLICY", f"dataset.{self.dataset}.mapping: wanted none in a vertical run")
        source = parse_source(self.terms.source)
        new = self.step.batch > 0 and self.home.participant == self.step.terms.label_owner
        if new:
            if not self.own.new_persons:
                raise RefusedError("DATASET_NOT_OFFERED", "vertical.new_persons: the policy offers no new persons")
            source = parse_source(self.own.new_persons)
        frame = self.case.frame(source, self.step.industry, self.step.contract.seed, new=new)
        encoded = self.holding.encode(frame, self.own.ids, f"dataset of {self.home.participant}")
        if encoded.rows_without_id or encoded.rows_twice:
            log.warning(
                "%s: %d rows without an identifier, %d named twice; they are not matched",
                self.home.participant,
                encoded.rows_without_id,
                encoded.rows_twice,
            )
        self._bound_quarantine(encoded.quarantine, new)
        if len(encoded) > self.step.terms.largest_set:
            raise RefusedError("SET_TOO_LARGE", f"contract.vertical.largest_set = {self.step.terms.largest_set}")
        if not new:
            self.home.pin_rows(self.dataset, synthetic=encoded.synthetic or self.terms.synthetic)
        if not (new or encoded.synthetic or self.store.has("rows")):
            lifetimes.check_persons(self.home, self.home.open_ledger(), self.policy, self.dataset, encoded.ids)
        digest = hashlib.sha256("\n".join(encoded.ids).encode("utf-8", "surrogatepass")).digest()
        if self.store.once("rows", lambda: digest) != digest:
            raise RefusedError(
                "DATASET_NOT_OFFERED",
                "the rows changed in the middle of a batch: wanted the same persons in the same order; put them back",
            )
        return encoded

    def _bound_quarantine(self, report: QuarantineReport, new: bool) -> None:
        """Note the quarantined rows. Refuse to train if there are more than the policy allows."""
        if report.reasons:
            log.warning("%s: %s", self.home.participant, report)
        if report.share > self.terms.quarantine_threshold and not new:
            raise QuarantineError(
                f"dataset of {self.home.participant}: {report}. Wanted at most {self.terms.quarantine_threshold:.0%} "
                "broken rows: correct the source or raise quarantine_threshold in the policy."
            )

    def order(self) -> NDArray[np.int64]:
        """Return the secret order of this batch's rows: every index once. It is the same as long as the rows are."""
        return self.store.places("order", lambda: np.array(psi.shuffled(len(self.rows)), dtype=np.int64))

    def identifiers(self, places: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[str]:
        """Return the identifiers for the intersection, hashed with the authority's key if there is one."""
        ids = [self.rows.ids[int(i)] for i in places]
        if not self.step.terms.keyed_ids:
            return ids
        file = self.home.kept / "ids.key"
        key = file.read_bytes() if file.is_file() else b""
        if len(key) < SHORTEST_KEY:
            raise RefusedError(
                "NO_ID_KEY",
                f"keyed_ids: wanted the id authority's key of {SHORTEST_KEY} bytes or more at {file}, got {len(key)}",
            )
        return [psi.keyed(identifier, key) for identifier in ids]

    @property
    def context(self) -> bytes:
        """The context that the hash to the curve is bound to."""
        return self.session.bytes("intersection")

    # Sealing

    def pinned(self, name: str) -> str:
        """Return the pinned key of a participant; refuse without one."""
        if name not in self.own.peers:
            raise RefusedError("PEER_NOT_PINNED", f"vertical.peers: no key of {name}; get it out of band and pin it")
        return self.own.peers[name]

    def key_with(self, name: str, purpose: str = "seal") -> bytes:
        """Return the key shared with another participant in this session."""
        greeting = self.step.greetings.get(name)
        if greeting is None:
            raise RefusedError("BAD_MESSAGE", f"no key of {name} in the message")
        return self.greeting.key_with(name, greeting, self.pinned(name), purpose)

    def opened(self, name: str, step: str) -> bytes:
        """Return what `name` sealed for this participant at that step."""
        sealed = self.step.sealed.get(name)
        if sealed is None:
            raise RefusedError("BAD_MESSAGE", f"nothing of {name} in the message")
        return self.greeting.open(self.key_with(name), step, name, sealed)

    def sealed(self, name: str, data: bytes) -> torch.Tensor:
        """Return bytes that only `name` can open, as a tensor of the reply."""
        return as_tensor(self.greeting.seal(self.key_with(name), self.step.kind, name, data))

    # Account and release

    def reserve(self, ledger: Ledger, plan: RunPlan, lifetime: Budget, *, once: bool = True) -> Reservation:
        """Open the account and charge this step before anything that could leave is computed. `once`: also charge its
        one-time events."""
        events = plan.other_events + (plan.once_events if once else ())
        try:
            ledger.open_run(plan, lifetime)
            reservation = ledger.reserve(plan.run_id, self.round, self.key, events, lifetime=lifetime)
        except ContractMismatchError as error:
            raise RefusedError("CONTRACT_NOT_ALLOWED", str(error)) from None
        except (BudgetExhaustedError, PlanError) as error:
            raise RefusedError("BUDGET_EXHAUSTED", str(error)) from None
        except RetriesExhaustedError as error:
            raise RefusedError("RETRIES_EXHAUSTED", str(error)) from None
        self.anchor = reservation.anchor
        ledger_witness.keep(self.home, self.anchor)
        return reservation

    def plan(
        self, account: str, events: tuple[Event, ...], allowance: Budget | None = None, once: tuple[Event, ...] = ()
    ) -> RunPlan:
        """Return the plan of one account: a list of releases, one round for each batch."""
        non_private = allowance is None
        return RunPlan(
            run_id=self.account(account),
            dataset=f"{self.dataset}/{account}",
            contract_sha256=self.step.contract.sha256(),
            unit=self.terms.unit,
            declared_units=self.terms.declared_units,
            allowance=allowance or Budget(math.inf, 0.0),
            noise_multiplier=0.0,
            sampling_rate=1.0,
            steps_per_round=1,
            rounds=self.step.terms.batches + 1 if account != "labels" else 1,
            clip=1.0,
            non_private=non_private,
            other_events=events,
            once_events=once,
            listed=True,
        )

    def disclosed(self, what: str) -> NonPrivate:
        """Return the event of a value that leaves without noise."""
        return NonPrivate(what=what, partition="train", unit=self.terms.unit)

    def charge_intersection(self, ledger: Ledger) -> tuple[Reservation, RunPlan]:
        """Charge one intersection. The policy limits the number of intersections for the life of a data set."""
        self.bound_uses(ledger, "intersection", self.own.intersections, "INTERSECTIONS_EXHAUSTED")
        event = self.disclosed("size of the set, and to those who hold a person that it is in the set")
        plan = self.plan("intersection", (event,))
        return self.reserve(ledger, plan, Budget(math.inf, 0.0)), plan

    def bound_uses(self, ledger: Ledger, account: str, most: int, code: str) -> None:
        """Refuse if the data set was used as often as its owner allows, over all coordinators and runs.

        Each entry with another key counts as another use, abandoned ones too. The second half of an intersection does
        not count.
        """
        accounts = ledger.sharing(f"{self.dataset}/{account}")
        entries = [entry for name in accounts for entry in ledger.entries(dataset=name)]
        uses = {(e.run_id, e.round, e.key) for e in entries if self.disclosed(SECOND_HALF) not in e.events}
        if len(uses - {(self.account(account), self.round, self.key)}) >= most:
            raise RefusedError(code, f"the policy allows {most} for the life of this data set")

    def send(
        self,
        ledger: Ledger,
        reservation: Reservation,
        plan: RunPlan,
        kind: str,
        tensors: Mapping[str, torch.Tensor],
        *,
        greet: bool = False,
    ) -> bytes:
        """Pass the reply through the release gate and store it. The sent bytes are read back from the outbox.

        `greet` adds a new public key, which depends on random bits alone.
        """
        header = self.header("OK", plan)
        release = Release(kind, dict(tensors), plan.other_events[0])
        out = gate([release], header, allowed=self.policy.allow.releases, charged=plan.other_events, shared=())
        if greet:
            out[f"greeting/{self.home.participant}"] = as_tensor(self.greeting.public())
        ledger.commit(reservation, encode(Envelope(header, out)))
        sent = ledger.reply(reservation.run_id, reservation.round, reservation.key)
        if sent is None:
            raise PrivacyError("the outbox lost a committed reply; nothing is sent")
        return sent

    def header(self, status: str, plan: RunPlan | None) -> dict[str, str]:
        """Return the public constants of a reply."""
        private = plan is not None and not plan.non_private
        assert plan is not None or status != "OK"
        return {
            "status": status,
            "kind": self.step.kind,
            "participant": self.home.participant,
            "run": self.step.run_id,
            "round": str(self.round),
            "contract": self.step.contract.sha256(),
            "epsilon_budget": repr(plan.allowance.epsilon) if private and plan is not None else "null",
            "delta": repr(plan.allowance.delta) if plan is not None else "0.0",
            "unit": self.terms.unit,
            "non_private": str(not private).lower(),
            # A reply without charge is not stored, so it must be the same for every request.
            **(to_header(self.anchor) if plan is not None else {}),
        }

    def note(self, name: str, data: object) -> None:
        """Write a private file of this participant about the run."""
        from consortia.common.disk import write_json

        write_json(self.home.run_folder(self.step.run_id) / name, json.loads(json.dumps(data)))


def as_tensor(data: bytes) -> torch.Tensor:
    """Return bytes as a tensor of an envelope."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
