"""What compressed updates cost in the metric, and what they save on the wire.

    python benchmarks/compression.py [--data ../shared/data] [--scenario banks-network] [--seeds 8] [--rounds N]
                                     [--hidden 128,64] [--kinds int8,int4,top-k] [--jobs N] [--json]

Every seed is a split (and rows, where they are synthetic); each kind runs on it embedded, DP included.
The metric is the participants' mean test AUC. Differences to the run without compression are paired by seed; so is the
seed noise beside them, two runs without compression whose DP noise differs. `within_noise`: the 95 % interval of the
mean change holds 0, and the mean is no larger than the interval of two uncompressed runs. `--hidden` makes the model
large enough for its update to outweigh the message around it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from scipy import stats

from clients.metrics import compute
from consortia.common.jobs import side_by_side
from consortia.engines import embedded, runner
from consortia.engines.options import Options
from consortia.engines.runner import prepare
from consortia.terms.scenario import load_scenario, scenario_from_json

KINDS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "none again": None,
    "int8": {"kind": "int8"},
    "int4": {"kind": "int4"},
    "top-k": {"kind": "top-k", "fraction": 0.25},
}


def run(
    name: str, data: Path | None, seed: int, rounds: int | None, hidden: list[int], terms: dict[str, Any] | None
) -> tuple[float, float]:
    """Return mean AUC and bytes sent over what they would have been."""
    text = json.loads(load_scenario(name).with_overrides(rounds=rounds, seed=seed).to_json())
    for industry in text["contract"]["industries"].values():
        if hidden:
            industry["model"] = {"kind": "mlp", "hidden": hidden}
    if terms:
        text["contract"]["compression"] = terms
    made = scenario_from_json(json.dumps(text))
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(runner, "load_scenario", return_value=made):
        job = prepare(Options(scenario=name, data=data, split_seed=seed, out=Path(folder)))
        # A control run ends with predictions, without the local models of a receipt.
        job = replace(job, homes={name: replace(home, control=True) for name, home in job.homes.items()})
        embedded.run(job)
        scores = [_auc(home.folder / "runs" / job.run_id / "predictions.csv") for home in job.homes.values()]
        participants = json.loads((job.folder / "coordinator.json").read_text(encoding="utf-8"))[
            "participants"
        ].values()
    sent = sum(participant["bytes"]["sent"] for participant in participants)
    saved = sum(participant["bytes"].get("saved", 0) for participant in participants)
    return statistics.fmean(score for score in scores if score is not None), sent / (sent + saved)


def _auc(predictions: Path) -> float | None:
    table = pd.read_csv(predictions)
    test = table[table["split"] == "test"]
    return compute(["auc"], "binary", test["score_federated"].to_numpy(), test["label"].to_numpy())["auc"]


def summary(values: list[tuple[float, float]], base: list[float], noise: float) -> dict[str, Any]:
    """Return means over seeds and the 95 % interval of the paired change."""
    change = np.array([score - other for (score, _), other in zip(values, base, strict=True)])
    half = float(stats.t.ppf(0.975, len(change) - 1) * change.std(ddof=1) / np.sqrt(len(change)))
    return {
        "auc": statistics.fmean(score for score, _ in values),
        "change": float(change.mean()),
        "interval": half,
        "within_noise": bool(abs(change.mean()) <= half and abs(change.mean()) <= (noise or half)),
        "sent_over_raw": statistics.fmean(share for _, share in values),
    }


def main() -> None:
    """Print one line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--scenario", default="banks-network")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--hidden", default="")
    parser.add_argument("--kinds", default="int8,int4,top-k")
    given = parser.parse_args()
    hidden = [int(width) for width in given.hidden.split(",") if width]
    found = {
        kind: list(
            side_by_side(
                lambda seed, table=KINDS[kind]: run(given.scenario, given.data, seed, given.rounds, hidden, table),
                range(given.seeds),
                given.jobs,
            )
        )
        for kind in ("none", "none again", *given.kinds.split(","))
    }
    base = [score for score, _ in found["none"]]
    noise = summary(found["none again"], base, 0.0)["interval"]
    report = {kind: summary(values, base, noise) for kind, values in found.items() if kind != "none"}
    report["none"] = {"auc": statistics.fmean(base)}
    print(json.dumps(report, indent=1 if given.json else None))


if __name__ == "__main__":
    main()
