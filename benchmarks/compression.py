"""What compressed updates cost in the metric, and what they save on the wire.

    python benchmarks/compression.py [--data ../shared/data] [--scenario banks] [--seeds 8] [--rounds N] [--json]

Every seed is a split (and rows, where they are synthetic); each kind runs on it embedded, DP included.
The metric is the participants' mean test AUC. Differences to the run without compression are paired by seed; so is the
seed noise beside them, two runs without compression whose DP noise differs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from consortia import runner
from consortia.runner import Options, execute, prepare
from consortia.scenario import load_scenario, scenario_from_json

KINDS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "none again": None,
    "int8": {"kind": "int8"},
    "int4": {"kind": "int4"},
    "top-k": {"kind": "top-k", "fraction": 0.25},
}


def run(
    name: str, data: Path | None, seed: int, rounds: int | None, terms: dict[str, Any] | None
) -> tuple[float, float]:
    """Return mean AUC and bytes sent over what they would have been."""
    text = json.loads(load_scenario(name).with_overrides(rounds=rounds, seed=seed).to_json())
    if terms:
        text["contract"]["compression"] = terms
    made = scenario_from_json(json.dumps(text))
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(runner, "load_scenario", return_value=made):
        options = Options(scenario=name, data=data, split_seed=seed, out=Path(folder))
        seats = execute(prepare(options), options).result["participants"].values()
        scores = [s["metrics"]["auc"]["federated"] for s in seats]
        sent = sum(seat["bytes"]["sent"] for seat in seats)
        saved = sum(seat["bytes"].get("saved", 0) for seat in seats)
    return statistics.fmean(score for score in scores if score is not None), sent / (sent + saved)


def main() -> None:
    """Print one line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--scenario", default="banks")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = {
        kind: [run(given.scenario, given.data, seed, given.rounds, terms) for seed in range(given.seeds)]
        for kind, terms in KINDS.items()
    }
    base = [score for score, _ in found["none"]]
    report = {}
    for kind, values in found.items():
        change = [score - other for (score, _), other in zip(values, base, strict=True)]
        report[kind] = {
            "auc": statistics.fmean(score for score, _ in values),
            "change": statistics.fmean(change),
            "deviation_of_change": statistics.stdev(change),
            "sent_over_raw": statistics.fmean(share for _, share in values),
        }
    print(json.dumps(report, indent=1 if given.json else None))


if __name__ == "__main__":
    main()
