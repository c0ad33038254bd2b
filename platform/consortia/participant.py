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

import dataclasses
import json
import logging
import math
import os
import secrets
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass

import safetensors.torch
from torch import Tensor

from clients import registry
from clients.errors import ClientError
from clients.models import FederatedModule
from consortia import receipt
from consortia.errors import ConsortiaError, InputError, RefusedError, WireError
from consortia.evaluation import headline, module_scorer, score_metrics
from consortia.exchange import State, build_module, load_state, scope_of, shared_names
from consortia.home import Home
from consortia.local_training import Partitions, load_partitions, make_plan, train_round
from consortia.policy import DatasetTerms, Policy, Proposal, check_contract, effective_budget, load_policy
from consortia.scenario import Contract, contract_from_json
from consortia.wire import Envelope, decode, encode, message_key
from privacy.egress import Release, gate
from privacy.errors import BudgetExhaustedError, ContractMismatchError, PrivacyError, RetriesExhaustedError
from privacy.events import NonPrivate
from privacy.ledger import Budget, Ledger, RunPlan

log = logging.getLogger("consortia.participant")

#: Errors whose text the platform wrote itself from public names; their sentence may stand in the log.
_SAFE = (ConsortiaError, PrivacyError, ClientError)


@dataclass(frozen=True)
class Request:
    """A message of the coordinator, parsed."""

    kind: str
    participant: str
    industry: str
    run_id: str
    round: int
    contract: Contract
    contract_json: str
    proposal: Proposal
    model: Mapping[str, Tensor]

    @classmethod
    def parse(cls, data: bytes) -> Request:
        """Parse an envelope; anything unexpected is a `RefusedError` with code BAD_MESSAGE."""
        try:
            envelope = decode(data)
            header = envelope.header
            contract = contract_from_json(header["contract"])
            offer = json.loads(header["proposal"])
            epsilon = offer["epsilon"]
            request = cls(
                kind=header["kind"],
                participant=header["participant"],
                industry=header["industry"],
                run_id=header["run"],
                round=int(header["round"]),
                contract=contract,
                contract_json=contract.canonical(),
                proposal=Proposal(
                    str(offer["dataset"]), None if epsilon is None else float(epsilon), float(offer["delta"])
                ),
                model=envelope.tensors,
            )
        except (WireError, InputError, KeyError, ValueError, TypeError) as error:
            raise RefusedError("BAD_MESSAGE", f"{type(error).__name__} while reading the message") from None
        proposal = request.proposal
        if proposal.epsilon is not None and not (0 < proposal.epsilon < math.inf and 0 < proposal.delta < 1):
            raise RefusedError("BAD_MESSAGE", "the proposal is not a budget")
        last = contract.rounds + (1 if request.kind == "evaluate" else 0)
        if request.kind not in {"train", "evaluate"} or not 1 <= request.round <= last:
            raise RefusedError("BAD_MESSAGE", "kind or round is outside the contract")
        if not _is_run_id(request.run_id):
            raise RefusedError("BAD_MESSAGE", "the run id is not one")
        return request


def _is_run_id(text: str) -> bool:
    return 0 < len(text) <= 80 and all(c.isascii() and (c.isalnum() or c == "-") for c in text)


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
    try:
        request = Request.parse(data)
        if request.participant != home.participant:
            raise RefusedError("WRONG_PARTICIPANT", "the message is for somebody else")
        return _Round(request, home, source).answer()
    except RefusedError as error:
        log.warning("%s: refused: %s", home.participant, error)
        status = "RECEIVE_ONLY" if error.code == "BUDGET_EXHAUSTED" else "REFUSED"
        return encode(Envelope({"status": status, "code": error.code, "participant": home.participant}))
    except Exception as error:  # noqa: BLE001 - whatever it is, only a code and an incident id may cross
        incident = secrets.token_hex(8)
        log.error("%s: incident %s: %s", home.participant, incident, describe(error))
        return encode(
            Envelope(
                {
                    "status": "FAILED",
                    "code": "PARTICIPANT_ERROR",
                    "incident": incident,
                    "participant": home.participant,
                }
            )
        )


def describe(error: BaseException) -> str:
    """Return kind and place of an error; its text only where the platform itself wrote it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-4:]))
    text = f": {error}" if isinstance(error, _SAFE) else ""
    return f"{type(error).__name__}{text} at {where}"


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
        self.terms: DatasetTerms = terms.model_copy(update={"source": source}) if source else terms
        self.client = registry.get(request.industry)
        life = self.policy.budget.lifetime.budget()
        # The owner allowed a non-private run by name: from then on this data set's lifetime epsilon is infinite,
        # and every private run on it is refused.
        self.lifetime = Budget(math.inf, life.delta) if request.proposal.epsilon is None else life
        self.key = message_key(request.model, request.contract_json, request.run_id, request.round)

    def answer(self) -> bytes:
        request = self.request
        ledger = self.home.open_ledger()
        for run_id in (request.run_id, f"{request.run_id}-metrics"):
            stored = ledger.reply(run_id, request.round, self.key)
            if stored is not None:
                return stored
        parts = load_partitions(self.home, self.terms, request.contract, request.run_id)
        try:
            plan = self._plan(ledger)
        except RefusedError as refusal:
            # Receive-only: the model came in, is measured at home, and nothing but the code goes out.
            if refusal.code == "BUDGET_EXHAUSTED" and request.kind == "evaluate":
                receipt.write(self.home, request, None, parts, self._module(), ledger, self.policy)
            raise
        if request.kind == "evaluate":
            return self._evaluate(ledger, plan, parts)
        self._note_progress(parts)
        return self._train(ledger, plan, parts)

    def _plan(self, ledger: Ledger) -> RunPlan:
        """Return the plan fixed at the first message of the run; later proposals change nothing."""
        request = self.request
        stored = ledger.plan(request.run_id)
        if stored is not None and stored.contract_sha256 != request.contract.sha256():
            raise RefusedError("CONTRACT_NOT_ALLOWED", "this run was opened under another contract")
        if stored is None:
            left = ledger.lifetime_left(request.proposal.dataset, self.lifetime)
            allowance = effective_budget(self.policy, request.proposal, left)
            stored = make_plan(request.contract, self.terms, request.proposal.dataset, request.run_id, allowance)
        try:
            return ledger.open_run(stored, self.lifetime)
        except ContractMismatchError as error:
            raise RefusedError("CONTRACT_NOT_ALLOWED", str(error)) from None
        except BudgetExhaustedError as error:
            raise RefusedError("BUDGET_EXHAUSTED", str(error)) from None

    def _train(self, ledger: Ledger, plan: RunPlan, parts: Partitions) -> bytes:
        request = self.request
        event = plan.round_event()
        try:
            reservation = ledger.reserve(request.run_id, request.round, self.key, (event,), lifetime=self.lifetime)
        except BudgetExhaustedError as error:
            raise RefusedError("BUDGET_EXHAUSTED", str(error)) from None
        except RetriesExhaustedError as error:
            raise RefusedError("RETRIES_EXHAUSTED", str(error)) from None
        outcome = train_round(
            request.contract,
            request.industry,
            plan,
            parts.train,
            request.model,
            self._private_state(),
            participant=self.home.participant,
            round_number=request.round,
        )
        self._keep_private(outcome.private)
        tensors = gate(
            [Release("update", outcome.update, event)],
            self._header(plan, "OK"),
            allowed=self.policy.allow.releases,
            charged=(event,),
            shared=shared_names(outcome.update, request.contract),
        )
        reply = encode(Envelope(self._header(plan, "OK"), tensors))
        ledger.commit(reservation, reply)
        self._log_round(outcome.report, outcome.seconds)
        return self._sent(ledger, request.run_id)

    def _sent(self, ledger: Ledger, run_id: str) -> bytes:
        """Return the committed reply: the only place that a release is sent from."""
        sent = ledger.reply(run_id, self.request.round, self.key)
        if sent is None:
            raise PrivacyError("the outbox lost a committed reply; nothing is sent")
        return sent

    def _evaluate(self, ledger: Ledger, plan: RunPlan, parts: Partitions) -> bytes:
        request = self.request
        module = self._module()
        metrics = receipt.write(self.home, request, plan, parts, module, ledger, self.policy)
        header = self._header(plan, "EVALUATED")
        if "metrics" not in request.contract.releases:
            return encode(Envelope(header))
        event = NonPrivate(what="exact metrics", partition="evaluation", unit=plan.unit)
        # The evaluation units are others than the training units, so they have an account of their own.
        unlimited = Budget(math.inf, self.lifetime.delta)
        account = dataclasses.replace(
            plan,
            run_id=f"{plan.run_id}-metrics",
            dataset=f"{plan.dataset}/evaluation",
            allowance=Budget(math.inf, plan.allowance.delta),
            noise_multiplier=0.0,
            non_private=True,
            other_events=(event,),
        )
        ledger.open_run(account, unlimited)
        reservation = ledger.reserve(account.run_id, request.round, self.key, (event,), lifetime=unlimited)
        tensors = gate(
            [Release("metrics", metrics, event)],
            header,
            allowed=self.policy.allow.releases,
            charged=(event,),
            shared=(),
        )
        ledger.commit(reservation, encode(Envelope(header, tensors)))
        return self._sent(ledger, account.run_id)

    def _header(self, plan: RunPlan, status: str) -> dict[str, str]:
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
        }

    def _module(self) -> FederatedModule:
        module = build_module(self.request.contract, self.request.industry)
        load_state(module, {**self.request.model, **self._private_state()})
        return module

    def _private_state(self) -> State:
        """Return the private parameters as they were before this round; empty where none are private."""
        contract = self.request.contract
        names = [n for n in ("encoder.", "trunk.", "head.") if scope_of(n, contract) == "private"]
        if not names:
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

    def _note_progress(self, parts: Partitions) -> None:
        """Write the incoming model's validation metric to the participant's own progress file."""
        table = parts.validation
        metric = headline(self.client, table.target)
        value = None
        if len(table.target):
            value = score_metrics(self.client, module_scorer(self._module())(table), table).get(metric)
        line = {"round": self.request.round, "metric": metric, "value": value}
        self._append("progress.jsonl", line)

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
        with (self.home.run_folder(self.request.run_id) / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
