"""Members that fall into two groups with opposite labels: one model for all against `clustered`.

    python benchmarks/clusters.py [--seeds 3] [--rounds 20] [--epsilon inf 8 3]

The five banks of the committed scenario on synthetic rows (1,500 each); at `FLIPPED` good and bad loans are
exchanged. FedAvg then has nothing to agree on. Prints the mean AUC of the shared models on fresh rows, over banks and
seeds, and from which round on the banks stood in the right two clusters.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from clients import registry
from clients.dataset import prepare as prepare_rows
from clients.metrics import compute
from clients.models import predict
from clients.sources import numpy_generator
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.participant import receipt
from consortia.terms.scenario import Scenario, load_scenario
from consortia.terms.scopes import build_module, load_state

FLIPPED = ("used-car", "other")
ROWS = 1500


def opposite_sources(scenario: Scenario, folder: Path, seed: int) -> dict[str, str]:
    """Write every bank's synthetic rows, those of `FLIPPED` with good and bad exchanged; return the sources."""
    client = registry.get("bank")
    sources = {}
    for participant in scenario.roster:
        frame = client.synthesise(numpy_generator("clusters", participant.name, seed), ROWS, participant.site)
        if participant.name in FLIPPED:
            frame["class"] = 3 - frame["class"]
        frame.to_csv(folder / f"{participant.name}.csv", index=False)
        sources[participant.name] = f"csv:{folder / f'{participant.name}.csv'}"
    return sources


def run(folder: Path, strategy: str, epsilon: str, rounds: int, seed: int) -> dict[str, Any]:
    """Run once; return result.json."""
    options = Options(scenario="banks-network", out=folder / "runs", epsilon=(epsilon,), rounds=rounds, seed=seed)
    job = prepare(options)
    contract = job.scenario.contract
    terms = contract.strategy.model_copy(update={"name": strategy, "weighting": "equal"})
    contract = contract.model_copy(update={"strategy": terms})
    scenario = job.scenario.model_copy(update={"contract": contract})
    sources = opposite_sources(scenario, folder, seed)
    for name, home in job.homes.items():
        policy = home.policy.read_text(encoding="utf-8")
        units = scenario.participant(name).units
        text = policy.replace(f"declared_units = {units}", f"declared_units = {ROWS}")
        home.policy.write_text(text, encoding="utf-8")
    return execute(dataclasses.replace(job, scenario=scenario, sources=sources), options).result


def aucs(folder: Path, result: dict[str, Any], seed: int) -> list[float]:
    """Return the AUC of each bank's shared model on fresh rows of its own kind."""
    scenario = load_scenario("banks-network")
    (run_folder,) = (folder / "runs").iterdir()
    numbers = result["history"][-1].get("clusters", {}).get("bank", {})
    client, found = registry.get("bank"), []
    for participant in scenario.roster:
        own = run_folder / "model" / f"bank-cluster-{numbers.get(participant.name, 0)}.safetensors"
        file = own if own.is_file() else run_folder / "model" / "bank.safetensors"
        frame = client.synthesise(numpy_generator("clusters", "test", participant.name, seed), ROWS, participant.site)
        if participant.name in FLIPPED:
            frame["class"] = 3 - frame["class"]
        table = prepare_rows(client, frame)
        module = build_module(scenario.contract, "bank")
        load_state(module, safetensors.torch.load(file.read_bytes()))
        scores = np.asarray(predict(module, table.inputs), dtype=np.float64)
        found.append(compute(["auc"], "binary", scores, np.asarray(table.target))["auc"] or 0.5)
    return found


def separated(result: dict[str, Any]) -> int | None:
    """Return the first round from which on exactly the flipped banks had a cluster of their own."""
    right = None
    for line in result["history"]:
        numbers = line.get("clusters", {}).get("bank", {})
        parts = {frozenset(n for n in numbers if numbers[n] == k) for k in set(numbers.values())}
        if parts == {frozenset(FLIPPED), frozenset(numbers) - frozenset(FLIPPED)}:
            right = right or line["round"]
        else:
            right = None
    return right


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--epsilon", nargs="+", default=["inf", "8", "3"])
    chosen = parser.parse_args()
    receipt.write = lambda *_: None  # what a participant measures at home is not asked here, and takes most of the time
    print("synthetic rows; epsilon per run, delta 1e-5, unit: record")
    print("| epsilon | fedavg | clustered | separated in round |")
    print("|---|---|---|---|")
    for epsilon in chosen.epsilon:
        means: dict[str, list[float]] = {"fedavg": [], "clustered": []}
        rounds = []
        for seed in range(chosen.seeds):
            for strategy in means:
                with tempfile.TemporaryDirectory() as folder:
                    result = run(Path(folder), strategy, epsilon, chosen.rounds, seed)
                    means[strategy] += aucs(Path(folder), result, seed)
            rounds.append(separated(result))
        cells = " | ".join(f"{statistics.mean(found):.3f}" for found in means.values())
        print(f"| {epsilon} | {cells} | {', '.join(str(r or 'never') for r in rounds)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
