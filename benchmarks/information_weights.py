"""Participants with unequal budgets: row weights, information weights, and everyone at the strictest budget.

    python benchmarks/information_weights.py --data ../shared/data [--seeds 50] [--scenario NAME] [--out FILE] [--json]

Every seed draws a split (and, for synthetic rows, the rows); each arm runs on it through the embedded engine, DP
included. An arm's number is a participant's AUC on its own test rows. Differences are paired by seed; the bound is the
one-sided 95 % lower bound of their mean, t distribution, seeds as units. A seed in which a participant's test rows
have one class is left out for that participant. Without --data rows are synthetic, and the output says so.
The arms of a seed share their noise draws (seeded: this is a simulation that claims no epsilon), so that a pair differs
by its weights and budgets only. About five seconds a run and core.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tomli_w
from scipy import stats

from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.participant import training
from consortia.terms.scenario import find_scenario
from privacy.randomness import seeded_generator

BUDGETS = (1.0, 2.0, 4.0, 8.0, 8.0)
ARMS = ("rows", "information", "strictest")


def run(arm: str, scenario: str, data: Path | None, seed: int, keys: dict[str, Any]) -> dict[str, float | None]:
    """Return each participant's test AUC of the federated model."""
    source = find_scenario(scenario)
    terms = tomllib.loads(source.read_text(encoding="utf-8"))
    names = [participant["name"] for participant in terms["roster"]]
    weighting = "information" if arm == "information" else "declared"
    terms["contract"]["strategy"] = {**terms["contract"].get("strategy", {}), **keys, "weighting": weighting}
    budgets = [min(BUDGETS)] * len(names) if arm == "strictest" else BUDGETS
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / source.name
        file.write_text(tomli_w.dumps(terms), encoding="utf-8")
        shutil.copytree(source.parent / "policies" / source.stem, Path(folder) / "policies" / source.stem)
        options = Options(
            scenario=str(file),
            data=data,
            seed=seed,
            split_seed=seed,
            epsilon=tuple(f"{name}={budget:g}" for name, budget in zip(names, budgets, strict=True)),
            out=Path(folder) / "runs",
        )
        numbers = itertools.count()
        # One message at a time in a fixed order: the n-th draw of every arm is for the same participant and round.
        noise = lambda _: seeded_generator("weights study", seed, next(numbers))  # noqa: E731
        with patch.object(training, "fresh_generator", noise):
            result = execute(prepare(options), options).result
    return {name: participant["metrics"]["auc"]["federated"] for name, participant in result["participants"].items()}


def compare(left: list[float | None], right: list[float | None]) -> dict[str, float]:
    """Return mean and one-sided 95 % lower bound of the paired differences left - right."""
    pairs = [a - b for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    mean = statistics.fmean(pairs)
    error = statistics.stdev(pairs) / len(pairs) ** 0.5
    return {"mean": mean, "bound": mean - float(stats.t.ppf(0.95, len(pairs) - 1)) * error, "pairs": len(pairs)}


def table(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return means and paired comparisons by participant and for the mean over participants."""
    names = list(runs[0]["rows"])
    columns: dict[str, dict[str, list[float | None]]] = {
        arm: {name: [run[arm][name] for run in runs] for name in names} for arm in ARMS
    }
    for arm in ARMS:
        columns[arm]["mean"] = [
            statistics.fmean(known) if (known := [v for v in run[arm].values() if v is not None]) else None
            for run in runs
        ]
    out = {}
    for name in (*names, "mean"):
        out[name] = {arm: statistics.fmean(v for v in columns[arm][name] if v is not None) for arm in ARMS} | {
            f"information - {other}": compare(columns["information"][name], columns[other][name])
            for other in ("rows", "strictest")
        }
    return out


def main() -> int:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the public data sets; synthetic rows without it")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first-seed", type=int, default=1000, help="0-149 chose the limit of the weights")
    parser.add_argument("--scenario", default="banks-network")
    parser.add_argument("--strategy", default="{}", help="further keys of contract.strategy, JSON")
    parser.add_argument("--out", type=Path, help="keep every run's numbers here, and go on from them")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    runs: list[dict[str, Any]] = []
    if arguments.out and arguments.out.is_file():
        runs = [json.loads(line) for line in arguments.out.read_text(encoding="utf-8").splitlines()]
    for seed in range(len(runs), arguments.seeds):
        keys = json.loads(arguments.strategy)
        where = (arguments.scenario, arguments.data, arguments.first_seed + seed, keys)
        runs.append({arm: run(arm, *where) for arm in ARMS})
        if arguments.out:
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(runs[-1]) + "\n")
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    found = table(runs)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    kind = "public" if arguments.data else "synthetic"
    print(f"{arguments.scenario}, budgets {BUDGETS}, {len(runs)} seeds, {kind} data")
    print(
        f"{'participant':<12}{'rows':>8}{'inform.':>9}{'strictest':>11}"
        "   inform.-rows [bound]  inform.-strictest [bound]"
    )
    for name, line in found.items():
        rows, strict = line["information - rows"], line["information - strictest"]
        print(
            f"{name:<12}{line['rows']:>8.3f}{line['information']:>9.3f}{line['strictest']:>11.3f}"
            f"   {rows['mean']:+.4f} [{rows['bound']:+.4f}]     {strict['mean']:+.4f} [{strict['bound']:+.4f}]"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
