"""What networks reach on their scenarios: federated beside pooled, alone and joined, with privacy and without.

    python benchmarks/network_scenarios.py --data DATA [--scenarios heartbeats ...] [--epsilon inf 8 ...] [--seeds 5]
                                           [--released-only] [--jobs N] [--out FILE.jsonl]
    python benchmarks/network_scenarios.py --table FILE.jsonl [FILE.jsonl ...]

Each run is a whole simulation with the committed settings; `--epsilon` replaces all budgets. A seed is that of
the contract and of the split. The metric is the first of the industry. A number is the mean over participants, each on
its own test rows, then over seeds, with the half width of its 95 % interval (Student's t over seeds). `pooled` is the
same network from the same start, trained without privacy on all participants' training rows at once: as many steps, the
same optimizer and schedule. The rates of a contract suit clipped steps and averages, and a plain step of that size can
overshoot. So `pooled` is trained at the contract's rate, at half and at a quarter of it, and the loss on everybody's
validation rows chooses (`pooled_rate`). `alone`, `control` and `joined` are those of receipts; `--released-only`
measures none of them, which takes a small part of the time. `ratio` is federated / pooled (of an error pooled /
federated), `loss` what the budget costs beside no privacy (of an error in per cent of it), both seed by seed. `gain` is
joined less alone, positive where joining is better. Each run is written when it ends. Call it again to go on: what the
file has is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy.stats import t

from clients import registry
from clients.dataset import Table
from clients.metrics import get
from clients.models import FederatedModule, loss_for
from consortia.common.errors import InputError
from consortia.common.jobs import side_by_side
from consortia.engines.base import Job
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.participant import baseline
from consortia.participant.baseline import Baseline, Own
from consortia.participant.data import load_partitions
from consortia.participant.evaluation import module_scorer, score_metrics
from consortia.participant.own_candidates import majority
from consortia.participant.partitions import Partitions
from consortia.terms.optimizer import make_optimizer
from consortia.terms.policy import load_policy
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import build_module
from privacy.dp_sgd import PlainPlan, train_plain
from privacy.randomness import seeded_generator

SCENARIOS = (
    *("heartbeats", "turbofans", "turbofans-life", "digits", "imaging", "survival", "recommendations"),
    *("intrusions", "intrusions-unlabelled"),
)
SHOWN = ("pooled", "federated", "local", "control", "joined")
#: The pooled network's rates, as parts of the contract's.
RATES = (1.0, 0.5, 0.25)


def partitions(job: Job) -> dict[str, Partitions]:
    """Return each participant's rows as the run divided them."""
    found = {}
    for line in job.scenario.roster:
        home = job.homes[line.name]
        terms = load_policy(home.policy, simulation=True).dataset[line.dataset]
        if line.name in job.sources:
            terms = terms.model_copy(update={"source": job.sources[line.name]})
        found[line.name] = load_partitions(home, terms, line.dataset, job.scenario.contract, job.run_id)
    return found


def pooled(job: Job) -> tuple[float, float]:
    """Train the network on everybody's training rows at once, at each of `RATES`; the validation loss chooses.

    Returns
    -------
    float
        The mean of the metric over the participants' test rows.
    float
        The chosen one of `RATES`.
    """
    (industry,) = job.scenario.contract.industries
    client, parts = registry.get(industry), list(partitions(job).values())
    loss = loss_for(client.schema.target)
    trained = [(_pooled_at(job, parts, part), part) for part in RATES]
    watched = [part.validation for part in parts if len(part.validation)]

    def mean_loss(module: FederatedModule) -> float:
        with torch.no_grad():
            found = torch.cat([loss(module(rows.inputs), rows.target) for rows in watched]).mean()
        return float(found.nan_to_num(math.inf))

    module, rate = min(trained, key=lambda one: mean_loss(one[0]))
    scores = module_scorer(module)
    values = [score_metrics(client, scores(part.test), part.test)[client.metrics[0]] for part in parts]
    return statistics.fmean(value for value in values if value is not None), rate


def _pooled_at(job: Job, parts: Sequence[Partitions], share: float) -> FederatedModule:
    """Train with the contract's steps at this share of its learning rate."""
    contract = job.scenario.contract
    (industry,) = contract.industries
    rules = contract.industries[industry]
    tables = [part.train for part in parts]
    starts = np.cumsum([0, *(table.n_units for table in tables)])
    rows = (
        {"features": torch.cat([table.inputs["features"] for table in tables])},
        torch.cat([table.target for table in tables]),
        torch.cat([table.unit_index + int(start) for table, start in zip(tables, starts, strict=False)]),
        int(starts[-1]),
        loss_for(registry.get(industry).schema.target),
    )
    module = build_module(contract, industry)
    generator = seeded_generator("pooled", contract.seed)
    for number in range(1, contract.rounds + 1):
        plan = PlainPlan(sampling_rate=rules.sampling_rate, declared_units=rows[3], steps=rules.local_steps)
        rate = share * rules.rate(number, contract.rounds)
        train_plain(
            module,
            *rows,
            lambda parameters, rate=rate: make_optimizer(  # type: ignore[misc]
                rules.optimizer,
                parameters,
                learning_rate=rate,
                momentum=rules.momentum,
                weight_decay=rules.weight_decay,
            ),
            plan,
            generator,
        )
    return module


def no_search(contract: Any, client: Any, train: Table, name: str) -> Baseline:
    """Stand in for the search for a best own model, which takes most of a run's time."""
    del contract, name
    nowhere = np.zeros(0, dtype=np.int64)
    none, constant = train.take(nowhere), majority(client, train)
    own = Own("majority", "", constant, lambda rows: majority(client, rows), constant(none))
    return Baseline(constant, own, None, nowhere, none, nowhere, ())


def measure(scenario: str, epsilon: str, seed: int, data: Path | None, released_only: bool) -> dict[str, Any]:
    """Run the scenario once; return the means over its participants."""
    started = time.process_time()
    named = load_scenario(scenario).contract.industries
    data = None if any(registry.get(industry).installed for industry in named) else data  # its rows need no folder
    with tempfile.TemporaryDirectory() as folder:
        options = Options(
            scenario=scenario, data=data, out=Path(folder), seed=seed, split_seed=seed, epsilon=(epsilon,)
        )
        job = prepare(options)
        searched = mock.patch.object(baseline, "of_run", no_search) if released_only else mock.MagicMock()
        with searched:
            participants = execute(job, options).result["participants"]
        metric = registry.get(next(iter(job.scenario.contract.industries))).metrics[0]
        found = {
            "scenario": scenario,
            "epsilon": epsilon,
            "seed": seed,
            "metric": metric,
            "released_only": released_only,
        }
        if silent := [name for name, one in participants.items() if metric not in one["metrics"]]:
            raise InputError(
                f"{scenario}, seed {seed}: wanted metrics of everybody, got none of {', '.join(silent)}; a busy "
                "machine misses deadlines: call it again"
            )
        lines = [participant["metrics"][metric] for participant in participants.values()]
        wanted = ("federated",) if released_only else SHOWN[1:]
        for model in wanted:
            found[model] = statistics.fmean(line[model] for line in lines if line[model] is not None)
        if not released_only:
            known = [line for line in lines if line["joined"] is not None]
            found["gain"] = get(metric).sign * statistics.fmean(line["joined"] - line["local"] for line in known)
        if epsilon == "inf":
            found["pooled"], found["pooled_rate"] = pooled(job)
    return found | {"cpu_seconds": time.process_time() - started}


def _cell(values: Sequence[float], digits: int) -> str:
    """Return a mean with the half width of its 95 % interval (Student's t); `–` without values."""
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {half:.{digits}f}"


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The runs of a file as a Markdown table: one line a scenario and budget."""
    #: By scenario and budget, the values by what they are and by seed.
    groups: dict[tuple[str, str, str], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        group = groups[line["scenario"], line["metric"], line["epsilon"]]
        for name in (*SHOWN, "gain"):
            if name in line:
                group[name][line["seed"]] = line[name]
    heads = ("scenario", "metric", "ε", "seeds", *SHOWN, "ratio", "loss", "gain")
    text = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (scenario, metric, epsilon), found in groups.items():
        digits, error = (3, False) if get(metric).sign > 0 else (3 if scenario == "recommendations" else 1, True)
        federated, pooled = found["federated"], found["pooled"]
        plain = {} if epsilon == "inf" else groups.get((scenario, metric, "inf"), {}).get("federated", {})
        ratio = [
            (pooled[seed] / federated[seed]) if error else (federated[seed] / pooled[seed])
            for seed in sorted(federated.keys() & pooled.keys())
        ]
        loss = [
            100 * (federated[seed] / plain[seed] - 1) if error else plain[seed] - federated[seed]
            for seed in sorted(federated.keys() & plain.keys())
        ]
        cells = [_cell(list(found[name].values()), digits) for name in SHOWN]
        cells += [_cell(ratio, 3), _cell(loss, 1 if error else 3) + (" %" if error and loss else "")]
        cells.append(_cell(list(found["gain"].values()), digits))
        text.append(f"| {' | '.join((scenario, metric, epsilon, str(len(federated)), *cells))} |")
    return "\n".join(text)


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a file of measurements; nothing where there is none."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def main() -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of the public data sets; synthetic rows without it")
    parser.add_argument("--scenarios", nargs="*", default=SCENARIOS)
    parser.add_argument("--epsilon", nargs="*", default=["inf", "8"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--released-only", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("network_scenarios.jsonl"))
    parser.add_argument("--table", type=Path, nargs="*", help="print the table of files and end")
    options = parser.parse_args()
    if options.table is not None:
        print(table([line for file in options.table for line in lines_of(file)]))
        return 0
    torch.set_num_threads(1)
    keys = ("scenario", "epsilon", "seed", "released_only")
    there = {tuple(line[key] for key in keys) for line in lines_of(options.out)}
    try:
        cells = itertools.product(options.scenarios, options.epsilon, range(options.seeds))
        todo = [cell for cell in cells if (*cell, options.released_only) not in there]

        def cell(one: tuple[str, str, int]) -> dict[str, Any]:
            scenario, epsilon, seed = one
            return measure(scenario, epsilon, seed, options.data, options.released_only)

        for line in side_by_side(cell, todo, options.jobs):
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), file=sys.stderr, flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(lines_of(options.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
