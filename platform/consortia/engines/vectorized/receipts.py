"""Makes the receipts of a vectorised simulation, as far as they are measured.

The majority and the federated model are measured at everybody; the local ridge model at the first `LOCAL` participants
of the roster, since fitting it takes longer than training with all of them. No model is chosen and no interval drawn:
that is the embedded engine's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence

import torch

from consortia.engines.base import Job
from consortia.engines.vectorized.participants import Place
from consortia.participant.evaluation import client_for, headline, majority, module_scorer, ridge, score_metrics
from consortia.participant.receipt import RECEIPT_SCHEMA, spent
from consortia.terms.scopes import State, build_module, load_state
from consortia.trust.trusted_coordinator import central_part

#: Participants whose local model is fitted.
LOCAL = 100


def write(job: Job, places: Sequence[Place], models: Mapping[str, State]) -> None:
    """Write one receipt a participant, from its untouched test rows."""
    contract = job.scenario.contract
    modules = {name: build_module(contract, name) for name in {place.seat.industry for place in places}}
    for number, place in enumerate(places):
        name = place.seat.name
        started = time.perf_counter()
        client, parts = client_for(place.policy.dataset[place.seat.dataset]), place.parts
        module = modules[place.seat.industry]
        load_state(module, models[name])
        scorers = {"majority": majority(client, parts.train), "federated": module_scorer(module)}
        if number < LOCAL:
            scorers["local"] = ridge(client, parts.train, name)
        measured = {kind: score_metrics(client, scorer(parts.test), parts.test) for kind, scorer in scorers.items()}
        kinds = ("majority", "local", "federated", "personal", "kept")
        data = {
            "schema": RECEIPT_SCHEMA,
            "participant": name,
            "run_id": job.run_id,
            "industry": place.seat.industry,
            "contract_sha256": contract.sha256(),
            "synthetic": parts.synthetic,
            "conditional_on_split": parts.conditional_on_split,
            "units": {part: getattr(parts, part).n_units for part in ("train", "validation", "test")},
            "rows": sum(len(getattr(parts, part).target) for part in ("train", "validation", "test")),
            "classes": len(torch.unique(parts.train.target)) if client.schema.target.kind != "regression" else None,
            "headline": headline(client, parts.test.target),
            "metrics": {one: {kind: measured.get(kind, {}).get(one) for kind in kinds} for one in client.metrics},
            "epsilon": spent(place.plan, place.account, place.seat.dataset, job.run_id, place.policy, contract),
            **central_part(contract),
            "evaluate_seconds": time.perf_counter() - started,
        }
        file = job.homes[name].run_folder(job.run_id) / "receipt.json"
        file.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")
