"""The label owner's receipt: alone and assisted on untouched test rows, the decision, and the cost of the labels. It
stays at home."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.metrics import compute, get
from consortia.common.disk import write_json
from consortia.participant.receipt import RECEIPT_SCHEMA
from consortia.vertical.stacking import MARGIN, Decision
from privacy.events import CHANGE_LABEL
from privacy.ledger import Ledger
from privacy.randomness import numpy_generator

if TYPE_CHECKING:
    from consortia.vertical.participant import Work

__all__ = ["gain_of", "write_receipt"]

METRICS = ("auc", "auprc", "accuracy", "brier")


def write_receipt(
    work: Work,
    ledger: Ledger,
    decision: Decision,
    own: NDArray[np.float64],
    scores: NDArray[np.float64],
    known: dict[str, int],
    parts: NDArray[Any],
    labels: NDArray[Any],
    epsilon: float,
    started: float,
) -> None:
    """Write `receipt.json` (and, in a simulation, `predictions.csv` and `events.json`) into the run's folder at home.

    The keys are those of the horizontal receipt, so one record and one table show both modes. `local` is alone,
    `federated` is assisted.
    """
    test, train = parts == "test", parts == "train"
    alone = decision.alone.predict(own, np.empty((len(own), 0)))
    assisted = decision.assisted.predict(own, scores)
    rate = float(labels[train].mean())
    measured = {
        "majority": compute(METRICS, "binary", np.full(int(test.sum()), rate), labels[test]),
        "local": compute(METRICS, "binary", alone[test], labels[test]),
        "federated": compute(METRICS, "binary", assisted[test], labels[test]),
    }
    step, life = work.step, work.policy.budget.lifetime
    private = math.isfinite(epsilon)
    dataset = f"{work.dataset}/labels"
    lifetime = ledger.spent(dataset, 0.0)
    folder = work.home.run_folder(step.run_id)
    matched = np.isfinite(scores).any(axis=1)
    write_json(
        folder / "receipt.json",
        {
            "schema": RECEIPT_SCHEMA,
            "participant": work.home.participant,
            "run_id": step.run_id,
            "industry": step.industry,
            "case": step.terms.case,
            "contract_sha256": step.contract.sha256(),
            "role": "label owner",
            "synthetic": work.rows.synthetic,
            "units": {part or "unlabelled": int((parts == part).sum()) for part in ("train", "test", "")},
            "rows": len(parts),
            "matched": known,
            "hide_membership": step.terms.hide_membership,
            "matched_share": None if step.terms.hide_membership else float(matched.mean()),
            "label": step.terms.label,
            "purpose": step.terms.purpose,
            "classes": len(np.unique(labels[train])),
            "headline": METRICS[0],
            "metrics": {name: {kind: measured[kind][name] for kind in measured} for name in METRICS},
            "local_model": decision.alone.name,
            "assisted_model": decision.assisted.name,
            "keeps": "federated" if decision.joins else "local",
            "decision": {
                "joins": decision.joins,
                "cross_validated_gain": decision.gain,
                "standard_error": decision.standard_error,
                "margin": MARGIN,
            },
            "gain": gain_of(assisted[test], alone[test], labels[test], work.home.participant),
            "epsilon": {
                "run": epsilon if private else None,
                "lifetime": lifetime if math.isfinite(lifetime) else None,
                "budget": work.policy.budget.run.epsilon if private else None,
                "lifetime_budget": life.epsilon,
                "delta": 0.0,
                "lifetime_delta": 0.0,
                "unit": work.terms.unit,
                "relation": CHANGE_LABEL,
                "non_private": not private,
                "metrics_non_private": False,
                "metrics": None,
            },
            "evaluate_seconds": time.perf_counter() - started,
        },
    )
    if work.home.simulation:
        _write_predictions(folder / "predictions.csv", work, parts, labels, alone, assisted)
        write_json(folder / "events.json", ledger.export())


def gain_of(
    assisted: NDArray[np.float64], alone: NDArray[np.float64], labels: NDArray[Any], participant: str
) -> dict[str, float] | None:
    """Return assisted minus alone in AUC with a 95 % paired bootstrap interval.

    None if undefined or with fewer than ten rows.
    """
    generator = numpy_generator("bootstrap", participant)
    found = get(METRICS[0]).gain(assisted, alone, labels, np.arange(len(labels)), generator)
    return None if found is None else asdict(found)


def _write_predictions(
    path: Any, work: Work, parts: NDArray[Any], labels: NDArray[Any], alone: Any, assisted: Any
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "split", "label", "score_local", "score_federated"])
        for row, part in enumerate(parts):
            if part:
                writer.writerow([row, part, int(labels[row]), repr(float(alone[row])), repr(float(assisted[row]))])
