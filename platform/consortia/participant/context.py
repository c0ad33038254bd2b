"""The work on one message: the participant's policy, plan, ledger, files and log."""

from __future__ import annotations

import logging
import math
import os
import time

import safetensors.torch

from clients.errors import ClientLoadError, MetricError
from clients.masking import SourceText
from clients.models import FederatedModule
from consortia.common import disk
from consortia.common.errors import InputError, RefusedError, describe
from consortia.messages.envelope import Envelope, encode, message_key
from consortia.messages.ledger_anchor import to_header
from consortia.messages.request import Request
from consortia.participant import forecast, ledger_witness, lifetimes, metrics_release, own_sums, receipt
from consortia.participant.agreement import check_opened, check_signed
from consortia.participant.compressed_update import compressed
from consortia.participant.data import load_partitions
from consortia.participant.evaluation import client_for, headline, module_scorer, score_metrics
from consortia.participant.home import Home
from consortia.participant.metrics_release import Due
from consortia.participant.partitions import Partitions
from consortia.participant.training import make_plan
from consortia.participant.unpaid_requests import Measurement
from consortia.terms.industries import check_agreed, check_confirmed
from consortia.terms.policy import DatasetTerms, check_contract, effective_budget
from consortia.terms.scopes import LOSS, State, shared_names
from privacy.claims import Claims
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


class Work:
    """The work on one request.

    Attributes
    ----------
    key : str
        The outbox keeps the reply to this message under this key.
    charged : list of Event
        The events reserved for the message so far. The release gate allows nothing else.

    Raises
    ------
    RefusedError
        The policy or the contract does not allow the request.
    """

    def __init__(self, request: Request, home: Home, source: str | None) -> None:
        self.request = request
        self.home = home
        self.policy = home.read_policy()
        # A run's name is SCENARIO-TIME-RANDOM. Only in a simulation does the owner choose that name.
        scenario = request.run_id.rsplit("-", 2)[0] if home.simulation else ""
        terms = check_contract(self.policy, request.contract, request.industry, request.proposal, scenario)
        check_signed(home, self.policy, request.contract, request.proposal)
        self.terms: DatasetTerms = terms.model_copy(update={"source": SourceText(source)}) if source else terms
        self.dataset = request.proposal.dataset
        try:
            self.client = client_for(self.terms)
            metrics_release.check_groups(request, self.client.schema)
            if request.contract.vertical is None:
                check_agreed(self.client, request.contract.industries[request.industry])
                if not home.simulation:
                    check_confirmed(self.client)
        except (MetricError, ClientLoadError) as error:
            raise RefusedError("BAD_POLICY", str(error)) from None
        self.anchor: Anchor | None = None
        self.charged: list[Event] = []
        where = (request.run_id, str(request.round), request.kind, request.industry, self.dataset)
        self.key = message_key(request.tensors, *where, request.contract_json)

    def partitions(self, ledger: Ledger) -> Partitions:
        request = self.request
        parts = load_partitions(self.home, self.terms, self.dataset, request.contract, request.run_id)
        lifetimes.check_rows(self.home, ledger, self.policy, self.dataset, parts)
        return parts

    def lifetime(self, non_private: bool) -> Budget:
        """Return the data set's lifetime budget for a run of that kind.

        The owner allows a non-private run by name. After it the data set's lifetime epsilon is infinite, and every
        private run on it is refused.
        """
        life = self.policy.budget.lifetime.budget()
        return Budget(math.inf, life.delta) if non_private else life

    def plan(self, ledger: Ledger) -> RunPlan:
        """Return the plan that the first message of the run fixed. Later proposals change nothing."""
        stored = ledger.plan(self.request.run_id)
        if stored is None:
            return self._new_plan(ledger)
        fixed = (stored.contract_sha256, stored.dataset, stored.unit, stored.declared_units)
        units = self.request.contract.training_units(self.home.participant, self.terms.declared_units)
        if fixed != (self.request.contract.sha256(), self.dataset, self.terms.unit, units):
            raise RefusedError("CONTRACT_NOT_ALLOWED", "this run was opened for another contract, data set or unit")
        check_opened(self.home, self.policy, self.request.contract, stored)
        if stored.non_private:
            if not self.policy.allow.non_private:
                raise RefusedError("NON_PRIVATE_NOT_ALLOWED", "the owner withdrew allow.non_private")
        else:
            allowed = self.policy.budget.of(self.request.contract)
            if stored.allowance.epsilon > allowed.epsilon or stored.allowance.delta > allowed.delta:
                raise RefusedError(
                    "BUDGET_EXHAUSTED", "the owner lowered the budget below what this run was opened with"
                )
        return stored

    def affordable(self, ledger: Ledger) -> RunPlan:
        """Return the run's plan, or the plan that it would be opened with. Nothing is written.

        Raises
        ------
        RefusedError
            The budget does not suffice for the run or its metrics.
        """
        stored = ledger.plan(self.request.run_id)
        plan = self.plan(ledger) if stored is not None else self._solved(ledger)
        if ledger.plan(metrics_release.metrics_run(self.request.run_id)) is None:
            metrics_release.account_of(ledger, self.request, plan, self.policy, self.terms)
        return plan

    def _solved(self, ledger: Ledger) -> RunPlan:
        request = self.request
        life = self.lifetime(request.proposal.epsilon is None)
        left = ledger.lifetime_left(self.dataset, life, claims=request.contract.grows)
        allowance = effective_budget(self.policy, request.proposal, left, self.policy.budget.of(request.contract))
        try:
            return make_plan(
                request.contract, self.terms, self.dataset, request.run_id, allowance, self.home.participant
            )
        except InputError as error:
            raise RefusedError("CONTRACT_NOT_ALLOWED", str(error)) from None
        except PlanError as error:
            raise RefusedError("BUDGET_EXHAUSTED", str(error)) from None

    def _new_plan(self, ledger: Ledger) -> RunPlan:
        plan = self._solved(ledger)
        try:
            self.open_metrics(ledger, plan)  # first: a run without budget for its metrics must not start
            return ledger.open_run(plan, self.lifetime(self.request.proposal.epsilon is None))
        except (ContractMismatchError, InputError) as error:
            raise RefusedError("CONTRACT_NOT_ALLOWED", str(error)) from None
        except (BudgetExhaustedError, PlanError) as error:
            raise RefusedError("BUDGET_EXHAUSTED", str(error)) from None

    def open_metrics(self, ledger: Ledger, plan: RunPlan) -> RunPlan | None:
        return metrics_release.open_metrics(ledger, self.request, plan, self.policy, self.terms)

    def reserve(
        self,
        ledger: Ledger,
        run_id: str,
        events: tuple[Event, ...],
        lifetime: Budget,
        claims: Claims | None = None,
    ) -> Reservation:
        try:
            number, key = self.request.round, self.key
            reservation = ledger.reserve(run_id, number, key, events, lifetime=lifetime, claims=claims)
        except BudgetExhaustedError as error:
            raise RefusedError("BUDGET_EXHAUSTED", str(error)) from None
        except RetriesExhaustedError as error:
            raise RefusedError("RETRIES_EXHAUSTED", str(error)) from None
        self.anchor = reservation.anchor
        self.charged.extend(events)
        forecast.keep(self.home, self.request.run_id, self.request.forecast)  # before anything is sent
        ledger_witness.keep(self.home, self.anchor)
        return reservation

    def reserve_aside(self, ledger: Ledger, due: Due | None) -> Reservation | None:
        return None if due is None else self.reserve(ledger, due.account.run_id, (due.event,), due.lifetime)

    def measured(
        self, due: Due | None, charged: Reservation | None, module: FederatedModule, parts: Partitions
    ) -> list[Release]:
        if due is None or charged is None:
            return []
        noise = charged.noise("metrics")
        tensors = metrics_release.measure(due, self.request, module, parts, self.terms, self.home.participant, noise)
        return [Release(due.kind, tensors, due.event)]

    def sealed(self, header: dict[str, str], releases: list[Release]) -> bytes:
        """Pass everything through the release gate, and return the bytes of the reply."""
        tensors = gate(
            releases,
            header,
            allowed=self.policy.allow.releases,
            charged=self.charged,
            shared=shared_names(self.request.model, self.request.contract),
            measured={LOSS, *metrics_release.names(self.client)},
        )
        return encode(Envelope(header, compressed(self.request, self.home, tensors)))

    def sent(self, ledger: Ledger, run_id: str) -> bytes:
        """Return the committed reply. Every release is sent from here."""
        sent = ledger.reply(run_id, self.request.round, self.key)
        if sent is None:
            raise PrivacyError("the outbox lost a committed reply; nothing is sent")
        return sent

    def write_receipt(
        self, ledger: Ledger, plan: RunPlan | None, parts: Partitions, module: FederatedModule, once: Measurement
    ) -> None:
        """Write the receipt. A failure depends on rows and must not show outside, so it is only logged at home."""
        if not once.due:
            return
        try:
            receipt.write(self.home, self.request, plan, parts, module, ledger, self.policy)
            own_sums.forget(self.home, self.request.run_id)
            once.done()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - see above
            log.error("%s: no receipt: %s", self.home.participant, describe(error))

    def header(self, plan: RunPlan, status: str, due: Due | None = None) -> dict[str, str]:
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

    def private_state(self) -> State:
        """Return the private parameters as they were before this round; empty if none are private."""
        if "private" not in self.request.contract.scopes.named:
            return {}
        folder = self.home.run_folder(self.request.run_id)
        for number in range(self.request.round - 1, 0, -1):
            file = folder / f"private-{number}.safetensors"
            if file.is_file():
                loaded: State = safetensors.torch.load(file.read_bytes())
                return loaded
        return {}

    def keep_private(self, private: State) -> None:
        if private:
            file = self.home.run_folder(self.request.run_id) / f"private-{self.request.round}.safetensors"
            temporary = file.with_suffix(".tmp")
            temporary.write_bytes(safetensors.torch.save(private))
            temporary.replace(file)

    def note_progress(self, module: FederatedModule, parts: Partitions) -> None:
        """Write the incoming model's validation metric to the participant's own progress file."""
        table = parts.validation
        try:
            metric = headline(self.client, table.measured)
            value = None
            if len(table.target):
                value = score_metrics(self.client, module_scorer(module)(table), table).get(metric)
            self._append("progress.jsonl", {"round": self.request.round, "metric": metric, "value": value})
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it depends on rows, so the reply must not
            log.error("%s: no progress line: %s", self.home.participant, describe(error))

    def log_round(self, report: object, seconds: float) -> None:
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
