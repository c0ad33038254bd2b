"""Sites that contradict each other: is anybody's kept model worse than its own? One site's labels are flipped.

    python benchmarks/conflict.py --data ../shared/data [--seeds 10] [--first 0] [--flipped 1] [--private]

German credit by purpose (`banks-network`) and the heart centres (`hospitals-network`, split by hash, so that a seed is
a split). The labels of `--flipped` sites, rotating with the seed, are exchanged in the data file; everybody trains with
the committed terms (without noise unless `--private`), then chooses as a receipt does
(`consortia.participant.personal`). Shown is kept minus local on the untouched test rows, in the metric that the receipt
leads with. Exits 1 when a participant's mean over the seeds is below -.01.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import tomli_w
import torch

from clients import bank, hospital, registry
from consortia.engines.demonstration import demo_policy_file
from consortia.engines.options import Options
from consortia.engines.runner import prepare
from consortia.engines.vectorized.coordinator import CrowdCoordinator
from consortia.participant import personal
from consortia.participant.baseline import baseline
from consortia.participant.evaluation import headline, module_scorer, score_metrics
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import State, build_module, load_state

WORST = -0.01
SITES = {"banks-network": tuple(bank.PURPOSES), "hospitals-network": hospital.SITES}
#: Of each participant: what it keeps, and kept and federated minus local (NaN where a metric has no value).
Found = dict[str, tuple[str, float, float]]


def flip_banks(data: Path, sites: list[str]) -> None:
    """Exchange good and bad loans of these purposes."""
    file = data / "bank" / "german_credit" / "german.data"
    codes = {code for site in sites for code in bank.PURPOSES[site]}
    rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    other = {"1": "2", "2": "1"}
    lines = [" ".join([*row[:-1], other[row[-1]] if row[3] in codes else row[-1]]) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def flip_hospitals(data: Path, sites: list[str]) -> None:
    """Exchange ill and healthy patients of these centres."""
    for site in sites:
        file = data / "hospital" / "heart" / f"processed.{site}.data"
        rows = [line.split(",") for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        lines = [",".join([*row[:-1], "0" if float(row[-1]) > 0 else "1"]) for row in rows]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")


FLIPS: dict[str, Callable[[Path, list[str]], None]] = {"banks-network": flip_banks, "hospitals-network": flip_hospitals}


def lay_out(scenario: str, folder: Path) -> str:
    """Write the scenario with a hashed split, and its policies."""
    data = load_scenario(scenario).model_dump(mode="json", by_alias=True, exclude_none=True)
    for terms in data["contract"]["industries"].values():
        terms["split"] = "hash"
    for participant in data["roster"]:
        participant["epsilon"] = float(participant["epsilon"])
    file = folder / f"{scenario}.toml"
    file.write_text(tomli_w.dumps(data), encoding="utf-8")
    policies = demo_policy_file(scenario, data["roster"][0]["name"]).parent
    shutil.copytree(policies, folder / "policies" / scenario)
    return str(file)


def play(scenario: str, data: Path, *, flipped: int, seed: int, private: bool) -> Found:
    """Train once and let everybody choose."""
    names = SITES[scenario]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("bank/german_credit", "hospital/heart"):
            shutil.copytree(data / part, folder / "data" / part)
        FLIPS[scenario](folder / "data", [names[(seed + i) % len(names)] for i in range(flipped)])
        options = Options(
            scenario=lay_out(scenario, folder),
            data=folder / "data",
            out=folder / "runs",
            engine="vectorized",
            epsilon=() if private else ("inf",),
            seed=seed,
            split_seed=seed,
        )
        found: list[Found] = []

        class Chooses(CrowdCoordinator):
            def _evaluate(self, models: dict[str, State], *_: object) -> None:  # type: ignore[override]
                found.append({name: choice(self, name, models[name]) for name in self.places})

        coordinator = Chooses(prepare(options))
        coordinator.open()
        coordinator.run()
    return found[0]


def choice(coordinator: CrowdCoordinator, name: str, model: State) -> tuple[str, float, float]:
    """Return what one participant keeps, and kept and federated minus local on its test rows."""
    place = coordinator.places[name]
    industry, parts = place.participant.industry, place.parts
    client = registry.get(industry)
    module = build_module(coordinator.contract, industry)
    load_state(module, model)
    alone = baseline(coordinator.contract, industry, parts.train, name).alone
    offered = personal.candidates(module, industry, alone, name)
    kept = personal.keep(offered, client, parts.train, parts.validation, name)
    metric = headline(client, parts.test.target)
    values = [
        score_metrics(client, scorer(parts.test), parts.test)[metric]
        for scorer in (kept.scorer, module_scorer(module), alone.scorer)
    ]
    own, shared, local = (math.nan if value is None else value for value in values)
    return kept.kind, own - local, shared - local


def main() -> int:
    """Print one line a participant; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the public data sets")
    parser.add_argument("--scenarios", nargs="*", choices=list(SITES), default=list(SITES))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--flipped", type=int, default=1, help="sites whose labels are exchanged")
    parser.add_argument("--private", action="store_true", help="the committed budgets instead of none")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for scenario in options.scenarios:
        runs: list[Found] = []
        for seed in range(options.first, options.first + options.seeds):
            runs.append(play(scenario, options.data, flipped=options.flipped, seed=seed, private=options.private))
            print(f"{scenario} seed {seed}: {runs[-1]}", file=sys.stderr, flush=True)
        for name in runs[0]:
            kept = [run[name][1] for run in runs if math.isfinite(run[name][1])]
            lines.append(
                {
                    "scenario": scenario,
                    "participant": name,
                    "kept": statistics.fmean(kept),
                    "federated": statistics.fmean(run[name][2] for run in runs if math.isfinite(run[name][2])),
                    "worse": sum(gain < WORST for gain in kept),
                    "better": sum(gain > -WORST for gain in kept),
                    "of": len(kept),
                    "lowest": min(kept),
                }
            )
    if options.json:
        print(json.dumps(lines, indent=1))
    else:
        print("test metric against the own model (positive: joining paid); mean over seeds")
        for line in lines:
            print(
                f"{line['scenario']:<10} {line['participant']:<12} kept {line['kept']:+.4f}, "
                f"lowest {line['lowest']:+.3f}, worse by more than .01 in {line['worse']} of {line['of']}, "
                f"better in {line['better']}; federated {line['federated']:+.4f}"
            )
    return int(any(line["kept"] < WORST for line in lines))


if __name__ == "__main__":
    sys.exit(main())
