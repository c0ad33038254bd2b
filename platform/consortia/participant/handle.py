"""One message at a participant: check, charge, train, store, release. No Flower in here.

Guarantees (the design's invariants 1 to 3, 5 and 11)
-----------------------------------------------------
* No policy, no ledger or a contract that the policy does not allow: a refusal with a code, nothing else.
* A reply that carries an update was reserved before training and committed together with its bytes; what
  is sent is read back from the outbox. Asked again, the bytes are identical and cost nothing.
* An exhausted budget means receive-only.
* Any other failure crosses as PARTICIPANT_ERROR and an incident id. The log at home names the kind of error
  and where it happened, never its text, which may hold a value of a row.
"""

from __future__ import annotations

import logging
import math
import os
import time

import safetensors.torch

from clients import registry
from clients.masking import SourceText
from clients.models import FederatedModule
from consortia.common import disk
from consortia.common.errors import InputError, RefusedError, describe
from consortia.common.logs import about
from consortia.messages import size_release
from consortia.messages.envelope import Envelope, encode, message_key
from consortia.messages.ledger_anchor import to_header
from consortia.messages.request import OPENING, Request
from consortia.participant import ledger_witness, lifetimes, metrics_release, receipt, secure_sum, unpaid_requests
from consortia.participant.compressed_update import compressed
from consortia.participant.evaluation import headline, module_scorer, score_metrics
from consortia.participant.guard import guarded
from consortia.participant.home import Home
from consortia.participant.metrics_release import Due
from consortia.participant.training import (
    Partitions,
    declared_training_units,
    load_partitions,
    make_plan,
    ready_module,
    train_round,
)
from consortia.participant.unpaid_requests import Measurement
from consortia.terms.policy import DatasetTerms, Policy, check_contract, effective_budget, load_policy
from consortia.terms.scopes import LOSS, State, build_module, load_state, shared_names
from privacy.egress import Release, gate
from privacy.errors import (
    BudgetExhaustedError,
    ContractMismatchError,
    PlanError,
    PrivacyError,
    RetriesExhaustedError,
)
from privacy.events import Event
from privacy.ledger import Anchor, Budget, Ledger, Reservation, RunPlan

log = logging.getLogger("consortia.participant")


def handle(data: bytes, home: Home, source: str | None = None) -> bytes:
    """Answer one message.

    Parameters
    ----------
    data : bytes
        The coordinator's envelope.
    home : Home
        The participant's folder.
    source : str, optional
        Overrides the policy's source; set by whoever starts the participant, never by a message.

    Returns
    -------
    bytes
        The reply's envelope.
    """

    def work() -> bytes:
        request = Request.parse(data)
        about(request.run_id, request.round)
        if request.participant != home.participant:
            raise RefusedError("WRONG_PARTICIPANT", "the message is for somebody else")
        with home.exclusive(request.contract.round.deadline_seconds):
            return _Round(request, home, source).answer()

    return guarded(home.participant, work)


class _Round:
    """The work on one request."""

    def __init__(self, request: Request, home: Home, source: str | None) -> None:
        self.request = request
        self.home = home
        try:
            self.policy: Policy = load_policy(home.policy, simulation=home.simulation)
        except InputError as error:
            raise RefusedError("BAD_POLICY", str(error)) from None
        if self.policy.participant != home.participant:
            raise RefusedError("WRONG_PARTICIPANT", f"{home.policy} belongs to {self.policy.participant}")
        terms = check_contract(self.policy, request.contract, request.industry, request.proposal)
        self.terms: DatasetTerms = terms.model_copy(update={"source": SourceText(source)}) if source else terms
        self.dataset = request.proposal.dataset
        self.client = registry.get(request.industry)
        self.anchor: Anchor | None = None
        self.charged: list[Event] = []
        where = (request.run_id, str(request.round), request.kind, request.industry, self.dataset)
        self.key = message_key(request.tensors, *where, request.contract_json)

    def answer(self) -> bytes:
        request = self.request
        ledger = self.home.open_ledger()
        ledger_witness.check(self.home, ledger, request.anchor)
        ledger_witness.note_budget(ledger, self.policy)
        lifetimes.settle(ledger, self.policy, self.dataset, self.terms.source)
        self.anchor = ledger.anchor(request.run_id)
        for run_id in (request.run_id, metrics_release.metrics_run(request.run_id)):
            stored = ledger.reply(run_id, request.round, self.key)
            if stored is not None:
                return stored
        secure = request.contract.trust == "aggregate"
        if secure and request.kind in OPENING:
            return secure_sum.opening(self, ledger, self._plan(ledger))
        if request.kind == "evaluate":
            if secure:
                secure_sum.end(self, ledger)
            return self._evaluate(
                ledger, unpaid_requests.admit(self.home, ledger, request.run_id, self.key, self.policy.limits)
            )
        if request.kind == "run-key":
            unpaid_requests.run_folder(self.home, ledger, request.run_id, self.policy.limits)
        parts = self._partitions(ledger)
        if secure:
            return secure_sum.answer(self, ledger, self._plan(ledger), parts)
        return self._train(ledger, self._plan(ledger), parts)

    def _partitions(self, ledger: Ledger) -> Partitions:
        request = self.request
        parts = load_partitions(self.home, self.terms, self.dataset, request.contract, request.run_id)
        lifetimes.check_rows(self.home, ledger, self.policy, self.dataset, parts)
        return parts

    def _lifetime(self, non_private: bool) -> Budget:
        """Return the data set's lifetime budget for a run of that kind.

        The owner allows a non-private run by name; from then on the data set's lifetime epsilon is infinite, and
        every private run on it is refused.
        """
        life = self.policy.budget.lifetime.budget()
        return Budget(math.inf, life.delta) if non_private else life

    def _plan(self, ledger: Ledger) -> RunPlan:
        """Return the plan fixed at the first message of the run; later proposals change nothing."""
        stored = ledger.plan(self.request.run_id)
        if stored is None:
            return self._new_plan(ledger)
        fixed = (stored.contract_sha256, stored.dataset, stored.unit, stored.declared_units)
        units = declared_training_units(self.terms, self.request.contract)
        if fixed != (self.request.contract.sha256(), self.dataset, self.terms.unit, units):
            raise RefusedError("CONTRACT_NOT_ALLOWED", "this run was opened for another contract, data set or unit")
        if stored.non_private:
            if not self.policy.allow.non_private:
                raise RefusedError("NON_PRIVATE_NOT_ALLOWED", "the owner withdrew allow.non_private")
        elif (
            stored.allowance.epsilon > self.policy.budget.run.epsilon
            or stored.allowance.delta > self.policy.budget.run.delta
        ):
            raise RefusedError("BUDGET_EXHAUSTED", "the owner lowered budget.run below what this run was opened with")
        return stored

    def _new_plan(self, ledger: Ledger) -> RunPlan:
        request = self.request
        non_private = request.proposal.epsilon is None
        left = ledger.lifetime_left(self.dataset, self._lifetime(non_private))
        allowance = effective_budget(self.policy, request.proposal, left)
        try:
            plan = make_plan(request.contract, self.terms, self.dataset, request.run_id, allowance)
            self._open_metrics(ledger, plan)  # first: a run whose metrics cannot be paid for does not start
            return ledger.open_run(plan, self._lifetime(non_private))
        except (ContractMismatchError, InputError) as error:
            raise RefusedError("CONTRACT_NOT_ALLOWED", str(error)) from None
        except (BudgetExhaustedError, PlanError) as error:
            raise RefusedError("BUDGET_EXHAUSTED", str(error)) from None

    def _open_metrics(self, ledger: Ledger, plan: RunPlan) -> RunPlan | None:
        return metrics_release.open_metrics(ledger, self.request, plan, self.policy, self.terms)

    def _train(self, ledger: Ledger, plan: RunPlan, parts: Partitions) -> bytes:
        request = self.request
        taken = {entry.round for entry in ledger.entries(request.run_id)} - {request.round}
        if request.contract.max_participations and len(taken) >= request.contract.max_participations:
            raise RefusedError("BUDGET_EXHAUSTED", "this run's contract allows no more participations")
        due = metrics_release.metrics_due(request, self._open_metrics(ledger, plan), self.policy)
        module = ready_module(
            request.contract,
            request.industry,
            plan,
            parts.train,
            request.model,
            self._private_state(),
            control=request.control,
        )
        self._note_progress(module, parts)
        once = size_release.due(ledger, plan)
        aside = self._reserve_aside(ledger, due)
        events = (*plan.round_events(), *once)
        reservation = self._reserve(ledger, request.run_id, events, self._lifetime(plan.non_private))
        beside = self._release(due, aside, module, parts)  # of the model as it came in
        outcome = train_round(
            module,
            request.contract,
            request.industry,
            plan,
            parts.train,
            request.model,
            participant=self.home.participant,
            round_number=request.round,
            noise=reservation.noise("train"),
            secure_noise=self.policy.secure_noise(simulation=self.home.simulation),
            control=request.control,
        )
        self._keep_private(outcome.private)
        releases = [Release("update", outcome.update, plan.round_event()), *beside]
        releases += size_release.release(once, parts.train, reservation.noise("size"))
        if outcome.loss is not None:
            releases.append(Release("loss", {LOSS: outcome.loss}, plan.other_events[0]))
        reply = self._sealed(self._header(plan, "OK", due), releases)
        ledger.commit(reservation, reply)
        if aside is not None:  # killed in between, it stays charged as abandoned; the reply is in the outbox already
            ledger.commit(aside, reply)
        self._log_round(outcome.report, outcome.seconds)
        return self._sent(ledger, request.run_id)

    def _reserve(self, ledger: Ledger, run_id: str, events: tuple[Event, ...], lifetime: Budget) -> Reservation:
        try:
            reservation = ledger.reserve(run_id, self.request.round, self.key, events, lifetime=lifetime)
        except BudgetExhaustedError as error:
            raise RefusedError("BUDGET_EXHAUSTED", str(error)) from None
        except RetriesExhaustedError as error:
            raise RefusedError("RETRIES_EXHAUSTED", str(error)) from None
        self.anchor = reservation.anchor
        self.charged.extend(events)
        ledger_witness.keep(self.home, self.anchor)
        return reservation

    def _reserve_aside(self, ledger: Ledger, due: Due | None) -> Reservation | None:
        return None if due is None else self._reserve(ledger, due.account.run_id, (due.event,), due.lifetime)

    def _release(
        self, due: Due | None, charged: Reservation | None, module: FederatedModule, parts: Partitions
    ) -> list[Release]:
        if due is None or charged is None:
            return []
        noise = charged.noise("metrics")
        tensors = metrics_release.measure(due, self.request, module, parts, self.terms, self.home.participant, noise)
        return [Release(due.kind, tensors, due.event)]

    def _sealed(self, header: dict[str, str], releases: list[Release]) -> bytes:
        """Return the bytes of a reply, everything in it having passed the release gate."""
        tensors = gate(
            releases,
            header,
            allowed=self.policy.allow.releases,
            charged=self.charged,
            shared=shared_names(self.request.model, self.request.contract),
        )
        return encode(Envelope(header, compressed(self.request, self.home, tensors)))

    def _sent(self, ledger: Ledger, run_id: str) -> bytes:
        """Return the committed reply: the only place that a release is sent from."""
        sent = ledger.reply(run_id, self.request.round, self.key)
        if sent is None:
            raise PrivacyError("the outbox lost a committed reply; nothing is sent")
        return sent

    def _evaluate(self, ledger: Ledger, measurement: Measurement) -> bytes:
        """Measure at home; answer with constants, or with metrics where contract and policy agree on them.

        What is answered is settled, and paid for, before anything is measured: whether a metric can be computed
        depends on the rows, and must not show.
        """
        request, parts = self.request, self._partitions(ledger)
        plan = self._plan(ledger) if ledger.plan(request.run_id) is not None else None
        module = build_module(request.contract, request.industry)
        try:
            load_state(module, {**request.model, **self._private_state()})
        except ValueError as error:
            raise RefusedError("BAD_MESSAGE", str(error)) from None
        if plan is None:
            self._write_receipt(ledger, plan, parts, module, measurement)
            left = ledger.lifetime_left(self.dataset, self._lifetime(request.proposal.epsilon is None))
            effective_budget(self.policy, request.proposal, left)  # refuses with BUDGET_EXHAUSTED: receive-only
            raise RefusedError("NOT_TRAINED", "an evaluation of a run that never trained here")
        due = metrics_release.metrics_due(request, self._open_metrics(ledger, plan), self.policy)
        reservation = self._reserve_aside(ledger, due)
        self._write_receipt(ledger, plan, parts, module, measurement)
        if due is None or reservation is None:
            return self._sealed(self._header(plan, "EVALUATED"), [])
        reply = self._sealed(self._header(plan, "EVALUATED", due), self._release(due, reservation, module, parts))
        ledger.commit(reservation, reply)
        return self._sent(ledger, due.account.run_id)

    def _write_receipt(
        self, ledger: Ledger, plan: RunPlan | None, parts: Partitions, module: FederatedModule, once: Measurement
    ) -> None:
        """Write the receipt; a line in the log at home when that fails, which depends on rows and must not show."""
        if not once.due:
            return
        try:
            receipt.write(self.home, self.request, plan, parts, module, ledger, self.policy)
            once.done()
        except Exception as error:  # noqa: BLE001 - see above
            log.error("%s: no receipt: %s", self.home.participant, describe(error))

    def _header(self, plan: RunPlan, status: str, due: Due | None = None) -> dict[str, str]:
        request = self.request
        return {
            "status": status,
            "kind": request.kind,
            "participant": self.home.participant,
            "run": request.run_id,
            "round": str(request.round),
            "contract": request.contract.sha256(),
            "noise_multiplier": repr(plan.noise_multiplier),
            "epsilon_budget": "null" if plan.non_private else repr(plan.allowance.epsilon),
            "delta": repr(plan.allowance.delta),
            "unit": plan.unit,
            "non_private": str(plan.non_private).lower(),
            **({} if due is None else metrics_release.header(due, self.terms)),
            **to_header(self.anchor),
        }

    def _private_state(self) -> State:
        """Return the private parameters as they were before this round; empty where none are private."""
        if "private" not in self.request.contract.scopes.named:
            return {}
        folder = self.home.run_folder(self.request.run_id)
        for number in range(self.request.round - 1, 0, -1):
            file = folder / f"private-{number}.safetensors"
            if file.is_file():
                loaded: State = safetensors.torch.load(file.read_bytes())
                return loaded
        return {}

    def _keep_private(self, private: State) -> None:
        if private:
            file = self.home.run_folder(self.request.run_id) / f"private-{self.request.round}.safetensors"
            temporary = file.with_suffix(".tmp")
            temporary.write_bytes(safetensors.torch.save(private))
            temporary.replace(file)

    def _note_progress(self, module: FederatedModule, parts: Partitions) -> None:
        """Write the incoming model's validation metric to the participant's own progress file."""
        table = parts.validation
        try:
            metric = headline(self.client, table.target)
            value = None
            if len(table.target):
                value = score_metrics(self.client, module_scorer(module)(table), table).get(metric)
            self._append("progress.jsonl", {"round": self.request.round, "metric": metric, "value": value})
        except Exception as error:  # noqa: BLE001 - it depends on rows, so the reply must not
            log.error("%s: no progress line: %s", self.home.participant, describe(error))

    def _log_round(self, report: object, seconds: float) -> None:
        """Keep the data-dependent numbers of the step at home."""
        line = {
            "round": self.request.round,
            "seconds": seconds,
            "time": time.time(),
            "process": os.getpid(),
            "report": vars(report) if hasattr(report, "__dict__") else str(report),
        }
        self._append("training.jsonl", line)

    def _append(self, name: str, line: object) -> None:
        disk.append_json(self.home.run_folder(self.request.run_id) / name, line)
