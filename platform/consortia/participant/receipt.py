"""The receipt: a participant's own record of whether joining paid. It stays with the participant.

It compares four models on untouched test rows: `local`, the best own model; `control`, that model stacked with a second
own model; `federated`, the received shared model; `joined`, the best own model stacked with the federated score. The
net gain is (joined - local) - (control - local). In every metric a gain is positive if joining paid.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from clients.dataset import Table
from clients.industry import IndustryClient
from clients.metrics import Interval
from clients.models import FederatedModule
from consortia.common.disk import write_json
from consortia.common.words import verdict
from consortia.participant import baseline, drift, forecast, joined, own_model, own_sums, personal
from consortia.participant.account import runs_left
from consortia.participant.baseline import Baseline
from consortia.participant.evaluation import (
    Scores,
    client_for,
    far_worse,
    gain_interval,
    headline,
    module_scorer,
    score_metrics,
)
from consortia.participant.joined import Stacked
from consortia.participant.metrics_release import metrics_run
from consortia.participant.own_model import AT_HOME, FEDERATED, JOINED, About, Scorer
from consortia.participant.partitions import Partitions
from consortia.participant.sums_at_home import SumsAtHome
from consortia.trust.secure_sum.statement import secure_part
from consortia.trust.trusted_coordinator import central_part
from privacy.events import RELATION
from privacy.ledger import Budget, Entry, Ledger, RunPlan

if TYPE_CHECKING:
    from consortia.messages.request import Request
    from consortia.participant.home import Home
    from consortia.terms.contract import Contract
    from consortia.terms.policy import Policy

RECEIPT_SCHEMA = 1
#: Kinds of targets whose training rows have no classes to tell apart.
NO_CLASSES = ("regression", "anomaly", "multilabel")
_DUMPED = ("local", "federated", "control", "joined")
log = logging.getLogger("consortia.participant")


class Account(Protocol):
    """What a receipt needs from a ledger."""

    def plan(self, run_id: str) -> RunPlan | None:
        """Return the plan of a run, or None."""

    def entries(self, run_id: str | None = None) -> list[Entry]:
        """Return all entries (of a run)."""

    def spent(self, dataset: str, delta: float) -> float:
        """Return the epsilon of a data set's lifetime."""

    def lifetime_left(self, dataset: str, lifetime: Budget) -> Budget:
        """Return what a new run is certain to get."""


def write(
    home: Home,
    request: Request,
    plan: RunPlan | None,
    parts: Partitions,
    module: FederatedModule,
    ledger: Ledger,
    policy: Policy,
) -> None:
    """Measure the final model and the baselines on untouched test rows, and write `receipt.json`.

    `consortia.participant.personal` chooses the model to keep. The test rows only report (invariant 14).
    """
    started = time.perf_counter()
    client = client_for(policy.dataset[request.proposal.dataset])
    released = module_scorer(module)
    sums = _sums_at_home(home, request)
    federated = released if sums is None else sums.fit(parts.train)
    if home.simulation and home.control:
        same = dict.fromkeys(_DUMPED, federated)
        _write_predictions(home.run_folder(request.run_id) / "predictions.csv", parts, same)
        return
    base = baseline.of_run(request.contract, client, parts.train, home.participant)
    if client.schema.target.kind == "anomaly":
        kept = personal.without_labels(module, request.industry, parts.train, home.participant)
    else:
        kept = personal.keep(
            personal.candidates(module, request.industry, base.alone, home.participant)
            if sums is None
            else personal.of_sums(base.alone, sums.fit, federated),
            client,
            parts.train,
            parts.validation,
            home.participant,
        )
    stacked = joined.joined(client, base, federated, parts.validation)
    models = {
        "majority": base.majority,
        "local": base.alone.scorer,
        "federated": federated,
        "personal": kept.personal,
        "kept": kept.scorer,
        "control": joined.control(client, base, parts.validation).scorer,
        "joined": stacked.scorer,
    }
    about = About(home.participant, request.run_id, request.industry, kept.kind, kept.detail, request.contract)
    files = {
        "kept": (kept.scorer.model(), about),
        "federated": (federated.model(), replace(about, kind=FEDERATED if sums is None else AT_HOME, detail="")),
        "joined": (stacked.scorer.model(), replace(about, kind=JOINED, detail=base.alone.name)),
    }
    if request.contract.sums is not None:
        files["released"] = (released.model(), replace(about, kind=FEDERATED, detail="released sums alone"))
    folder = home.run_folder(request.run_id)
    found = compared(client, models, parts.test, home.participant)
    data = {
        "schema": RECEIPT_SCHEMA,
        "participant": home.participant,
        "run_id": request.run_id,
        "industry": request.industry,
        "contract_sha256": request.contract.sha256(),
        "synthetic": parts.synthetic,
        "conditional_on_split": parts.conditional_on_split,
        "units": {part: getattr(parts, part).n_units for part in ("train", "validation", "test")},
        "rows": sum(len(getattr(parts, part).target) for part in ("train", "validation", "test")),
        "quarantine": {
            "rows_read": parts.quarantine.rows_read,
            "rows_kept": parts.quarantine.rows_kept,
            "reasons": dict(parts.quarantine.reasons),
            **({"bias": list(parts.bias)} if parts.bias else {}),
        },
        "classes": len(torch.unique(parts.train.target)) if client.schema.target.kind not in NO_CLASSES else None,
        **found,
        **forecast.beside(home, request.run_id, found["net_gains"]),
        "local_model": base.alone.kind,
        "personal_model": kept.personal_kind,
        "keeps": kept.kind,
        "joining": how(base, stacked),
        "models": own_model.keep(folder / "models", files),
        "epsilon": spent(plan, ledger, request.proposal.dataset, request.run_id, policy, request.contract),
        **_drift(home, request, parts),
        **secure_part(request.contract, plan),
        **central_part(request.contract),
        "evaluate_seconds": time.perf_counter() - started,
    }
    write_json(folder / "receipt.json", data)
    if home.simulation:
        _write_predictions(folder / "predictions.csv", parts, models)
        write_json(folder / "events.json", ledger.export())


def _drift(home: Home, request: Request, parts: Partitions) -> dict[str, Any]:
    """Return the line about drift since the last run, if there was one."""
    terms = request.contract.industries[request.industry]
    found = drift.since_last_run(home, request.proposal.dataset, request.industry, terms.filter, parts)
    return {"drift": found} if found else {}


def compared(client: IndustryClient, models: Mapping[str, Scorer], test: Table, participant: str) -> dict[str, Any]:
    """Return a receipt's comparison of models on the test rows.

    Returns
    -------
    dict
        `headline`, `metrics` (by metric and model), `gain` (federated over local), `net_gain` (joined over control, in
        the headline) with its `verdict`, `net_gains` (by metric: the headline and, of several classes, the macro AUC).
        A gain is {value, low, high}, or None if undefined. `diverged` (losses) is present only if the federated model
        is far worse than a constant.
    """
    metric = headline(client, test.measured)
    scores = {name: model(test) for name, model in models.items()}
    measured = {name: score_metrics(client, value, test) for name, value in scores.items()}
    shown = dict.fromkeys([metric, *({"macro_auc"} & set(client.metrics))])
    net = {one: _interval(gain_interval(one, scores["joined"], scores["control"], test, participant)) for one in shown}
    return {
        "headline": metric,
        "metrics": {one: {name: values.get(one) for name, values in measured.items()} for one in client.metrics},
        "gain": _interval(gain_interval(metric, scores["federated"], scores["local"], test, participant)),
        "net_gain": net[metric],
        "net_gains": net,
        "verdict": verdict(net[metric]),
        **({"diverged": far} if (far := far_worse(client, scores["federated"], scores["majority"], test)) else {}),
    }


def how(base: Baseline, stacked: Stacked) -> dict[str, Any]:
    """Return how `local`, `control` and `joined` were made, for the participant only."""
    return {
        "alone": base.alone.name,
        "second": base.second.name if base.second else None,
        "federated_weight": stacked.stack.share,
        "fitted_on": stacked.rows,
        "tried": [
            {"kind": kind, "detail": detail, "cross_validated": value if math.isfinite(value) else None}
            for kind, detail, value in base.tried
        ],
    }


def _interval(gain: Interval | None) -> dict[str, float] | None:
    return None if gain is None else {"value": gain.value, "low": gain.low, "high": gain.high}


def _sums_at_home(home: Home, request: Request) -> SumsAtHome | None:
    """Return the object that finishes the learner `sums` at home; None for other learners, or if the sums do not
    fit."""
    contract = request.contract
    if contract.sums is None:
        return None
    try:
        part = own_sums.sent(home, request.run_id)
        return SumsAtHome.of(home.participant, part, contract, request.industry, request.model, request.control)
    except ValueError as error:
        log.error("%s: the model of the released sums alone is kept: %s", home.participant, error)
        return None


def spent(
    plan: RunPlan | None,
    ledger: Account,
    dataset: str,
    run_id: str,
    policy: Policy,
    contract: Contract,
) -> dict[str, Any]:
    """Return the account of one run and of the data set's lifetime, as the participant sees it."""
    life = policy.budget.lifetime
    non_private = plan is not None and plan.non_private
    asked = plan.allowance if plan is not None and not non_private else policy.budget.run.budget()
    delta = asked.delta
    events = [event for entry in ledger.entries(run_id=run_id) for event in entry.events if event.partition == "train"]
    from privacy.accounting import epsilon

    run = epsilon(events, delta)
    lifetime = ledger.spent(dataset, life.delta)
    return {
        "run": run if math.isfinite(run) else None,
        "lifetime": lifetime if math.isfinite(lifetime) else None,
        "budget": None if plan is None or non_private else plan.allowance.epsilon,
        "lifetime_budget": life.epsilon,
        "runs_left": None if non_private else runs_left(ledger.lifetime_left(dataset, life.budget()), asked),
        "delta": delta,
        "lifetime_delta": life.delta,
        "unit": plan.unit if plan else policy.dataset[dataset].unit,
        "relation": RELATION,
        "non_private": non_private,
        # Metrics have another account, on other units. Its epsilon is infinite if exact metrics left.
        "metrics_non_private": contract.evaluation.metrics == "exact",
        "metrics": _metrics_account(ledger, run_id),
    }


def _metrics_account(ledger: Account, run_id: str) -> dict[str, Any] | None:
    """Return what the metrics of a run cost the evaluation units; None if none left or exact ones left."""
    from privacy.accounting import epsilon

    account = ledger.plan(metrics_run(run_id))
    if account is None or account.non_private:
        return None
    events = [event for entry in ledger.entries(run_id=account.run_id) for event in entry.events]
    delta = account.allowance.delta
    return {"run": epsilon(events, delta), "budget": account.allowance.epsilon, "delta": delta, "unit": account.unit}


def _write_predictions(path: Path, parts: Partitions, models: Mapping[str, Scorer]) -> None:
    """Write one line for each row, for a recount. Scores of several classes are written as a list."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "split", "label", *(f"score_{name}" for name in _DUMPED)])
        for split in ("train", "validation", "test"):
            table: Table = getattr(parts, split)
            if not len(table.target):
                continue
            columns = [models[name](table) for name in _DUMPED]
            for index, row_id in enumerate(table.row_ids):
                writer.writerow([row_id, split, table.target[index].item(), *(_cell(c, index) for c in columns)])


def _cell(scores: Scores, index: int) -> str:
    value = np.asarray(scores[index])
    return repr(float(value)) if value.ndim == 0 else json.dumps([float(v) for v in value])
