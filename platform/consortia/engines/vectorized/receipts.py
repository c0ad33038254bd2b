"""Writes the receipts of a vectorised simulation, with the numbers that are measured.

The majority and the federated model are measured for every participant. The own best model, the control, the joined
model and the net gain are measured only for the first participants of the roster, because fitting them takes longer
than the whole training. No personal model is chosen; only the embedded engine does that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

import torch

from consortia.engines.base import Job
from consortia.engines.vectorized.blocks import at_home
from consortia.engines.vectorized.participants import Place
from consortia.participant import joined
from consortia.participant.baseline import baseline
from consortia.participant.evaluation import client_for, headline, module_scorer, score_metrics
from consortia.participant.own_candidates import majority
from consortia.participant.receipt import NO_CLASSES, RECEIPT_SCHEMA, compared, how, spent
from consortia.terms.scopes import State, build_module, load_state
from consortia.trust.trusted_coordinator import central_part

#: Own models are fitted for at most so many participants, with at most so many training rows together.
LOCAL, LOCAL_ROWS = 100, 5_000
_KINDS = ("majority", "local", "federated", "personal", "kept", "control", "joined")


def write(job: Job, places: Sequence[Place], models: Mapping[str, State], beside: Mapping[str, State]) -> None:
    """Write one receipt for each participant, from its untouched test rows.

    Parameters
    ----------
    beside : what comes with the last model of the learner `sums`, by participant.
    """
    contract = job.scenario.contract
    modules = {name: build_module(contract, name) for name in {place.participant.industry for place in places}}
    rows = 0
    for number, place in enumerate(places):
        name = place.participant.name
        started = time.perf_counter()
        client, parts = client_for(place.policy.dataset[place.participant.dataset]), place.parts
        module = modules[place.participant.industry]
        load_state(module, models[name])
        rows += len(parts.train)
        scorers = {"federated": module_scorer(module)}
        if contract.sums is not None and name in beside:
            scorers["federated"] = at_home(contract, place, models[name], beside[name]).fit(parts.train)
        if number < LOCAL and (number == 0 or rows <= LOCAL_ROWS):
            base = baseline(contract, place.participant.industry, parts.train, name, client)
            stacked = joined.joined(client, base, scorers["federated"], parts.validation)
            scorers |= {"majority": base.majority, "local": base.alone.scorer, "joined": stacked.scorer}
            scorers["control"] = joined.control(client, base, parts.validation).scorer
            found = {**compared(client, scorers, parts.test, name), "local_model": base.alone.kind}
            found["joining"] = how(base, stacked)
        else:
            scorers["majority"] = majority(client, parts.train)
            values = {kind: score_metrics(client, one(parts.test), parts.test) for kind, one in scorers.items()}
            by_metric = {one: {kind: values[kind].get(one) for kind in values} for one in client.metrics}
            found = {"headline": headline(client, parts.test.measured), "metrics": by_metric, "net_gain": None}
        found["metrics"] = {one: {kind: line.get(kind) for kind in _KINDS} for one, line in found["metrics"].items()}
        data = {
            "schema": RECEIPT_SCHEMA,
            "participant": name,
            "run_id": job.run_id,
            "industry": place.participant.industry,
            "contract_sha256": contract.sha256(),
            "synthetic": parts.synthetic,
            "conditional_on_split": parts.conditional_on_split,
            "units": {part: getattr(parts, part).n_units for part in ("train", "validation", "test")},
            "rows": sum(len(getattr(parts, part).target) for part in ("train", "validation", "test")),
            "classes": len(torch.unique(parts.train.target)) if client.schema.target.kind not in NO_CLASSES else None,
            **found,
            "epsilon": spent(place.plan, place.account, place.participant.dataset, job.run_id, place.policy, contract),
            **central_part(contract),
            "evaluate_seconds": time.perf_counter() - started,
        }
        file = job.homes[name].run_folder(job.run_id) / "receipt.json"
        file.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")
