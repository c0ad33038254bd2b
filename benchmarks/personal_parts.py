"""Parts that stay at home: everything shared, FedPer, FedRep and FedBN on `banks-network` with a small network.

    python benchmarks/personal_parts.py [--data ../shared/data] [--seeds 3] [--epsilon inf 8]

Five banks that lend for different purposes (German credit; synthetic rows without --data). Every method takes the same
steps of the same network (mlp [16] with a LayerNorm), so each epsilon means the same sigma. Prints the mean AUC of the
federated model on the test rows over banks and seeds. Nothing was tuned.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from clients.metrics import compute
from consortia.engines.base import Job
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.terms.contract import contract_from_json

METHODS: dict[str, tuple[dict[str, str], int]] = {
    "all shared": ({}, 0),
    "FedPer": ({"head": "private"}, 0),
    "FedRep": ({"head": "private"}, 4),
    "FedBN": ({"norm": "private"}, 0),
}
TERMS = {
    "model": {"kind": "mlp", "hidden": [16], "norm": "layer"},
    "local_steps": 8,
    "sampling_rate": 0.5,
    "clip": 1.0,
    "learning_rate": 0.5,
}


def run(method: str, epsilon: str, seed: int, data: Path | None, out: Path) -> list[float]:
    """Return each bank's AUC."""
    options = Options(scenario="banks-network", data=data, epsilon=(epsilon,), seed=seed, out=out)
    job = prepare(options)
    scopes, private_steps = METHODS[method]
    contract = json.loads(job.scenario.contract.canonical())
    contract["industries"]["bank"] |= {**TERMS, "private_steps": private_steps}
    changed = contract_from_json(json.dumps({**contract, "scopes": scopes}))
    scenario = job.scenario.model_copy(update={"contract": changed})
    homes = {name: dataclasses.replace(home, control=True) for name, home in job.homes.items()}  # no receipts
    job = dataclasses.replace(job, scenario=scenario, homes=homes)
    execute(job, options)
    return [auc for name in homes if (auc := _auc(job, name)) is not None]


def _auc(job: Job, name: str) -> float | None:
    with (job.homes[name].run_folder(job.run_id) / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    scores, labels = (np.asarray([float(row[key]) for row in rows]) for key in ("score_federated", "label"))
    return compute(["auc"], "binary", scores, labels)["auc"]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epsilon", nargs="+", default=["inf", "8"])
    chosen = parser.parse_args()
    rows = "synthetic rows" if chosen.data is None else "public data"
    print(f"{rows}, {chosen.seeds} seeds; epsilon per run, delta 1e-5, unit: record")
    print("| epsilon | " + " | ".join(METHODS) + " |\n|---|" + "---|" * len(METHODS))
    for epsilon in chosen.epsilon:
        cells = []
        for method in METHODS:
            found = []
            for seed in range(chosen.seeds):
                with tempfile.TemporaryDirectory() as folder:
                    found += run(method, epsilon, seed, chosen.data, Path(folder))
            cells.append(f"{statistics.mean(found):.3f}")
        print(f"| {epsilon} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
