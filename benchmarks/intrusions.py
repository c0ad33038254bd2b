"""The scenarios of network operators beside one model on all rows: AUC, mean over the four operators' test rows.

    python benchmarks/intrusions.py [--data ../shared/data] [--scenarios intrusions intrusions-unlabelled] [--seeds 5]

Without `--data` rows are synthetic. A seed is that of the contract and of the split. *pooled* is the contract's network
trained without noise on all training rows at once, with the rounds, steps, rate and sampling of the contract. *plain*
is the federated model at epsilon = inf, *private* the one at the committed epsilon; *alone*, *control* and *joined* are
those of the private run's receipts. `ratio` is plain / pooled, `loss` plain - private, `gain` joined - alone. Each is a
mean over seeds; of `loss` and `gain` the half width of a 95 % interval (Student's t over seeds) follows.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t

from clients import registry
from clients.dataset import Table
from clients.metrics import compute
from clients.models import loss_for, predict
from consortia.common.errors import InputError
from consortia.engines.base import Job
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.participant.data import load_partitions
from consortia.participant.partitions import Partitions
from consortia.terms.optimizer import make_optimizer
from consortia.terms.policy import load_policy
from consortia.terms.scopes import build_module
from privacy.dp_sgd import PlainPlan, train_plain
from privacy.randomness import seeded_generator

MODELS = ("alone", "control", "joined")


def run(scenario: str, data: Path | None, seed: int, epsilon: str, folder: Path) -> tuple[Job, dict[str, float]]:
    """Run it; return the job and the mean AUC of each model."""
    options = Options(
        scenario=scenario,
        data=data,
        out=folder,
        seed=seed,
        split_seed=seed,
        epsilon=() if epsilon == "committed" else (epsilon,),
    )
    job = prepare(options)
    lines = [line["metrics"]["auc"] for line in execute(job, options).result["participants"].values()]
    found = {
        name: statistics.fmean(line[name] for line in lines) for name in ("local", "control", "federated", "joined")
    }
    return job, found


def partitions(job: Job) -> list[Partitions]:
    """Return everybody's rows of a run."""
    found = []
    for participant in job.scenario.roster:
        home = job.homes[participant.name]
        terms = load_policy(home.policy, simulation=True).dataset[participant.dataset]
        if participant.name in job.sources:
            terms = terms.model_copy(update={"source": job.sources[participant.name]})
        found.append(load_partitions(home, terms, participant.dataset, job.scenario.contract, job.run_id))
    return found


def pooled(job: Job) -> float:
    """Return the mean AUC of one network that is trained on all rows, with the contract's budget of steps."""
    contract = job.scenario.contract
    (industry,) = contract.industries
    rules, target = contract.industries[industry], registry.get(industry).schema.target
    parts = partitions(job)
    tables: list[Table] = [part.train for part in parts]
    inputs = {"features": torch.cat([table.inputs["features"] for table in tables])}
    labels = torch.cat([table.target for table in tables])
    module = build_module(contract, industry)
    for number in range(contract.rounds):
        rate = rules.rate(number + 1, contract.rounds)

        def optimizer(parameters: Any, rate: float = rate) -> torch.optim.Optimizer:
            return make_optimizer(
                rules.optimizer,
                parameters,
                learning_rate=rate,
                momentum=rules.momentum,
                weight_decay=rules.weight_decay,
            )

        plan = PlainPlan(sampling_rate=rules.sampling_rate, declared_units=len(labels), steps=rules.local_steps)
        rows = (inputs, labels, torch.arange(len(labels)), len(labels))
        chance = seeded_generator("pooled", contract.seed, number)
        train_plain(module, *rows, loss_for(target), optimizer, plan, chance, single=True)
    values = []
    for part in parts:
        scores, wanted = np.asarray(predict(module, part.test.inputs)), np.asarray(part.test.target)
        value = compute(["auc"], target.kind, scores, wanted)["auc"]
        values.append(0.5 if value is None else value)
    return statistics.fmean(values)


def measure(scenario: str, data: Path | None, seeds: range) -> dict[str, list[float]]:
    """Return every column by seed."""
    found: dict[str, list[float]] = defaultdict(list)
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            job, plain = run(scenario, data, seed, "inf", Path(folder))
            found["pooled"].append(pooled(job))
            _, private = run(scenario, data, seed, "committed", Path(folder))
        found["plain"].append(plain["federated"])
        found["private"].append(private["federated"])
        for model, name in zip(MODELS, ("local", "control", "joined"), strict=True):
            found[model].append(private[name])
        found["loss"].append(plain["federated"] - private["federated"])
        found["gain"].append(private["joined"] - private["local"])
        last = " ".join(f"{name} {values[-1]:.4f}" for name, values in found.items())
        print(f"{scenario} seed {seed}: {last}", file=sys.stderr, flush=True)
    return found


def line(scenario: str, found: dict[str, list[float]]) -> str:
    """Return a scenario's line of the Markdown table."""
    mean = {name: statistics.fmean(values) for name, values in found.items()}
    cells = [scenario, *(f"{mean[name]:.3f}" for name in ("pooled", "plain", "private", *MODELS))]
    cells.append(f"{mean['plain'] / mean['pooled']:.3f}")
    for name in ("loss", "gain"):
        many = len(found[name])
        half = float(t.ppf(0.975, many - 1)) * statistics.stdev(found[name]) / math.sqrt(many) if many > 1 else math.nan
        cells.append(f"{mean[name]:+.3f} ± {half:.3f}")
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of the public data sets; synthetic rows without it")
    parser.add_argument("--scenarios", nargs="*", default=["intrusions", "intrusions-unlabelled"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    heads = ("scenario", "pooled", "plain", "private", *MODELS, "ratio", "loss", "gain")
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    try:
        for scenario in options.scenarios:
            print(line(scenario, measure(scenario, options.data, range(options.first, options.first + options.seeds))))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
