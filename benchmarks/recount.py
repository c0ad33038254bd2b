"""Recount a run from its dump, with nothing of consortia: AUC with scikit-learn, ε with dp-accounting and Opacus.

    consortia run banks-network --dump dump --out runs
    python benchmarks/recount.py runs/<run-id>/result.json dump

Prints one line per participant and exits 1 when a number differs from the record by more than .001 (metrics)
or .02 (ε).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from pathlib import Path

import dp_accounting
import pandas as pd
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant
from sklearn.metrics import accuracy_score, roc_auc_score

METRIC_TOLERANCE = 0.001
EPSILON_TOLERANCE = 0.02


def recount_epsilon(entries: list[dict], delta: float) -> tuple[float, float]:
    """Return (dp-accounting PLD, Opacus PRV) of all training events of the entries."""
    pld = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    prv = PRVAccountant()
    for entry in entries:
        for event in entry["events"]:
            if event["partition"] != "train":
                continue
            if event["kind"] != "poisson_gaussian":
                return math.inf, math.inf
            sigma, rate, steps = event["noise_multiplier"], event["sampling_rate"], event["steps"]
            one = dp_accounting.GaussianDpEvent(sigma)
            pld.compose(one if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, one), steps)
            for _ in range(steps):
                prv.step(noise_multiplier=sigma, sample_rate=rate)
    return pld.get_epsilon(delta), prv.get_epsilon(delta)


def recount_metrics(predictions: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return AUC and accuracy of both models on the test rows."""
    test = predictions[predictions["split"] == "test"]
    out: dict[str, dict[str, float]] = {}
    for model in ("local", "federated"):
        scores = test[f"score_{model}"]
        out.setdefault("accuracy", {})[model] = accuracy_score(test["label"], scores >= 0.5)
        if test["label"].nunique() == 2:
            out.setdefault("auc", {})[model] = roc_auc_score(test["label"], scores)
    return out


def main() -> int:
    """Compare every participant; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("dump", type=Path)
    options = parser.parse_args()
    result = json.loads(options.result.read_text())
    wrong = 0
    for name, participant in result["participants"].items():
        folder = options.dump / name
        account = participant["epsilon"]
        # One ledger may hold several runs; the record's ε is this run's.
        entries = [
            e for e in json.loads((folder / "events.json").read_text())["entries"] if e["run_id"] == result["run_id"]
        ]
        line = [name]
        if not account["non_private"]:
            pld, prv = recount_epsilon(entries, account["delta"])
            # Opacus adds its error bound of .01 on purpose.
            wrong += abs(pld - account["run"]) > EPSILON_TOLERANCE or abs(prv - account["run"]) > EPSILON_TOLERANCE
            line.append(f"ε {account['run']:.4f} dp-accounting {pld:.4f} Opacus PRV {prv:.4f}")
        for metric, values in recount_metrics(pd.read_csv(folder / "predictions.csv")).items():
            for model, value in values.items():
                recorded = participant["metrics"].get(metric, {}).get(model)
                wrong += recorded is None or abs(recorded - value) > METRIC_TOLERANCE
                line.append(f"{metric} {model} {recorded:.4f} recounted {value:.4f}")
        print("; ".join(line))
    print(f"{len(result['participants'])} participants, {wrong} numbers differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    sys.exit(main())
