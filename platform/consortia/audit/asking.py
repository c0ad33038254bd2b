"""Asks what costs nothing, and what one industry's terms cost: readiness, terms by industry, messages of noisy sums.

* *Ready* is asked before the first round. The answer may tell nothing about rows, and nothing may be opened or charged.
* Where industries have terms of their own, the whole contract is sent, as a coordinator sends it. The plan that a
  participant opens must be that of its own industry's table, and each table must count in the hash that owners accept.
* A coordinator of noisy sums asks for every message, again, and then with other models: the run's events, counted with
  dp-accounting alone, keep its budget.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch

from consortia.audit.probe import shared_start
from consortia.audit.recount import accounted, recounted, train_events, within, written
from consortia.audit.result import Check, Findings, Progress, fact
from consortia.audit.settings import Audit
from consortia.audit.statistics_games import stated
from consortia.participant.identity import make_identity
from consortia.terms.contract import Contract, contract_from_json
from consortia.terms.roster import RosterParticipant
from consortia.terms.scopes import State
from privacy.events import event_to_json, resized
from privacy.ledger import Ledger, RunPlan

_EPSILON = 1.0
_AGAIN = 3  # other models of each message


def run(audit: Audit, progress: Progress) -> Findings:
    """Check one participant of each industry."""
    findings = Findings("asking")
    for participant in audit.one_per_industry():
        progress(f"{participant.name}: ready?")
        findings.checks += _ready(audit, participant, findings)
        if audit.whole is not None:
            progress(f"{participant.name}: terms of its own")
            findings.checks += _own_terms(audit, participant, audit.whole)
        if audit.contract.noisy_sums is not None:
            progress(f"{participant.name}: a greedy coordinator of sums")
            findings.checks += _greedy(audit, participant)
    return findings


def _plain(contract: Contract) -> dict[str, Any]:
    """Return a contract as data, without metrics: a probe's policy lets none leave."""
    data: dict[str, Any] = contract.model_dump(mode="json", by_alias=True)
    data.pop("steps", None)  # the audit's ledgers begin with it, so nothing grows
    for terms in (data, *data["by_industry"].values()):
        terms |= {"evaluation": {"metrics": "none"}, "stopping": None}
        terms["releases"] = [kind for kind in terms["releases"] if kind != "metrics"]
    return data


def _ready(audit: Audit, participant: RosterParticipant, findings: Findings) -> list[Check]:
    """Ask whether a participant can take part: twice with the same rows, and once with others."""
    contract = contract_from_json(json.dumps(_plain(audit.contract)))
    half = len(audit.pool(participant).frame) // 2
    told, taken = [], 0
    for first, last in ((0, half), (0, half), (half, half + half // 3)):
        bench = audit.bench(participant, epsilon=_EPSILON, delta=audit.probe_delta(participant))
        make_identity(bench.home)
        source = written(audit, participant, first, last, broken=3 if first else 0)
        request = bench.message(contract, "ready", 1, {}, kind="ready")
        answers = [bench.ask(request, source) for _ in range(2)]
        told += [{key: value for key, value in one.header.items() if key != "incident"} for one in answers]
        with Ledger.open(bench.home.ledger, bench.name) as ledger:
            taken += len(ledger.entries()) + len(ledger.runs()) + sum(bool(one.tensors) for one in answers)
    if told[0].get("status") != "READY":
        findings.notes.append(f"{participant.name}: answered {told[0].get('code')} and not READY")
    alike = all(one == told[0] for one in told)
    return [
        fact("READY tells nothing about rows", participant.name, alike, wanted="equal answers", got=alike),
        fact("READY opens, charges and carries nothing", participant.name, taken == 0, wanted=0, got=taken),
    ]


def _own_terms(audit: Audit, participant: RosterParticipant, whole: Contract) -> list[Check]:
    """Send the whole contract and compare the plan that is opened with the table of the participant's industry."""
    data = _plain(whole)
    contract, industry = contract_from_json(json.dumps(data)), participant.industry
    terms, rules = data["by_industry"].get(industry, data), data["industries"][industry]
    bench = audit.bench(participant, epsilon=_EPSILON, delta=audit.probe_delta(participant))
    make_identity(bench.home)
    model = shared_start(contract.of(industry), industry)
    kind = "run-key" if terms["trust"] == "aggregate" else "train"
    bench.ask(bench.message(contract, "terms", 1, model, kind=kind), written(audit, participant, 0, 60))
    with Ledger.open(bench.home.ledger, bench.name) as ledger:
        plan = ledger.plan("terms")
    spare = (terms["secure"] or {}).get("spare", 0) if terms["trust"] == "aggregate" else 0
    wanted = _wanted(terms, rules, spare)
    got = None if plan is None else {name: getattr(plan, name) for name in wanted}
    spent = math.inf if plan is None else recounted(_all_of(plan), bench.delta)
    checks = [
        fact("a plan is of the industry's own terms", participant.name, got == wanted, wanted=wanted, got=got),
        within("a plan of the industry's own terms keeps the budget", participant.name, spent, _EPSILON),
    ]
    if industry in data["by_industry"]:
        terms["evaluation"] = {**terms["evaluation"], "bins": 30}
        other = contract_from_json(json.dumps(data)).sha256() != contract.sha256()
        checks.append(fact("a table counts in the hash", participant.name, other, wanted="another hash", got=other))
    return checks


def _wanted(terms: dict[str, Any], rules: dict[str, Any], spare: int) -> dict[str, Any]:
    """Return what the written terms say of a plan."""
    if terms["learner"] == "sums":  # one training of two messages, three blocks
        return {"listed": True, "rounds": 1 + spare, "steps_per_round": 1, "sampling_rate": 1.0}
    if terms["learner"] == "additive":
        rounds = 1 + terms["additive"]["boosting_rounds"] + spare
        return {"listed": True, "rounds": rounds, "steps_per_round": 1, "sampling_rate": 1.0}
    if terms["learner"] not in {"gradient", "statistics"}:  # a package's: how many messages, its recipe says
        return {"listed": True, "steps_per_round": 1, "sampling_rate": 1.0}
    found = {
        "listed": False,
        "rounds": (terms["max_participations"] or terms["rounds"]) + spare,
        "steps_per_round": rules["local_steps"],
        "sampling_rate": rules["sampling_rate"],
    }
    return found if terms["trust"] == "aggregate" else {**found, "clip": rules["clip"]}


def _all_of(plan: RunPlan) -> list[dict[str, Any]]:
    """Return every event that a plan sets aside, as an export has it."""
    return [event_to_json(event) for _ in range(plan.rounds) for event in plan.round_events()] + [
        event_to_json(resized(event, 1)) for event in plan.once_events
    ]


def _greedy(audit: Audit, participant: RosterParticipant) -> list[Check]:
    """Ask for all messages of noisy sums, each again, and then with other models."""
    contract = stated(audit.contract, participant.industry)
    terms, bench = contract.noisy_sums, audit.bench(participant, epsilon=_EPSILON)
    assert terms is not None
    source, start, free = written(audit, participant, 0, 40), shared_start(contract, participant.industry), True
    messages = range(1, terms.shares.messages + 1)
    for number in messages:
        request = bench.message(contract, "greedy", number, start)
        first = bench.must(bench.ask(request, source))
        before = len(bench.export()["entries"])
        free &= bench.ask(request, source).reply == first.reply and len(bench.export()["entries"]) == before
    for number in list(messages) * _AGAIN:
        bench.ask(bench.message(contract, "greedy", number, _moved(start, audit.random)), source)
    ledger, subject = bench.export(), f"{participant.name}, sums"
    spent = recounted(train_events(ledger, "greedy"), bench.delta)
    law = "the same message gets the same bytes, and is not charged again"
    return [
        fact(law, subject, free, wanted="equal", got=free),
        *accounted(bench, ledger, subject),
        within("the run's events keep its budget", subject, spent, _EPSILON),
    ]


def _moved(start: State, random: np.random.Generator) -> State:
    """Return a model that a participant accepts, and that is another one."""
    return {
        name: tensor * torch.from_numpy(random.uniform(0.5, 1.5, tensor.shape))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in start.items()
    }
