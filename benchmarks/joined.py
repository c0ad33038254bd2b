"""What joining paid on public data: alone, control, federated, joined and the net gain, by scenario and budget.

    python benchmarks/joined.py --data ../shared/data [--scenarios banks ...] [--epsilon 1 inf] [--seeds 5] [--json]

Each run is a whole simulation with the committed settings; `--epsilon` replaces everybody's budget. Hospitals vary the
contract's seed (FLamby fixes the test rows), the others the split too. A number is the mean over participants, then
over seeds, in the metric that each receipt leads with; its 95 % interval is Student's t over seeds. `lowest` is the
mean net gain of the participant that gained least. Participants whose test rows define no AUC are left out. The CPU
time is that of one run, the start of Python not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from scipy.stats import t

from consortia.common.errors import InputError
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare

MODELS = ("local", "control", "federated", "joined")


@dataclass(frozen=True)
class Measured:
    """One scenario under one budget: means of each model, and the net gain of each seed and participant."""

    scenario: str
    epsilon: str
    seeds: int
    means: dict[str, float]
    net: list[float]
    net_of: dict[str, float]
    verdicts: dict[str, int]
    cpu_seconds: float

    @property
    def half(self) -> float:
        """Half of the 95 % interval of the mean net gain."""
        if len(self.net) < 2:
            return math.nan
        return float(t.ppf(0.975, len(self.net) - 1)) * statistics.stdev(self.net) / math.sqrt(len(self.net))


def measure(scenario: str, epsilon: str, seeds: range, data: Path | None) -> Measured:
    """Run the scenario once a seed."""
    values, net = defaultdict(list), []
    by_name: dict[str, list[float]] = defaultdict(list)
    verdicts: dict[str, int] = defaultdict(int)
    started = time.process_time()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            options = Options(
                scenario=scenario,
                data=data,
                out=Path(folder),
                seed=seed,
                split_seed=None if scenario.startswith("hospitals") else seed,
                epsilon=() if epsilon == "committed" else (epsilon,),
            )
            participants = execute(prepare(options), options).result["participants"]
        lines = {
            name: (participant["metrics"][participant["headline"]], participant["headline"])
            for name, participant in participants.items()
        }
        known = {name: line for name, (line, metric) in lines.items() if metric == "auc" and line["joined"] is not None}
        for name, line in known.items():
            by_name[name].append(line["joined"] - line["control"])
        for model in MODELS:
            values[model].append(statistics.fmean(line[model] for line in known.values()))
        net.append(values["joined"][-1] - values["control"][-1])
        for participant in participants.values():
            verdicts[participant["verdict"]] += 1
        print(f"{scenario} ε {epsilon} seed {seed}: net {net[-1]:+.4f}", file=sys.stderr, flush=True)
    cpu = (time.process_time() - started) / len(seeds)
    means = {model: statistics.fmean(values[model]) for model in MODELS}
    of = {name: statistics.fmean(gains) for name, gains in by_name.items()}
    return Measured(scenario, epsilon, len(seeds), means, net, of, dict(verdicts), cpu)


def table(results: list[Measured]) -> str:
    """The results as lines of a Markdown table, gains in thousandths of AUC."""
    heads = ("scenario", "ε", "alone", "control", "federated", "joined", "net gain", "lowest")
    heads += ("clearly/perhaps/not", "CPU s")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for r in results:
        m, low = r.means, min(r.net_of, key=lambda name: r.net_of[name])
        counts = "/".join(str(r.verdicts.get(word, 0)) for word in ("clearly", "perhaps", "not"))
        net = f"{1e3 * statistics.fmean(r.net):+.0f} ± {1e3 * r.half:.0f}"
        cells = (r.scenario, r.epsilon, *(f"{m[model]:.3f}" for model in MODELS), net)
        lines.append(f"| {' | '.join(cells)} | {low} {1e3 * r.net_of[low]:+.0f} | {counts} | {r.cpu_seconds:.0f} |")
    return "\n".join(lines)


def main() -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of the public data sets; synthetic rows without it")
    parser.add_argument("--scenarios", nargs="*", default=["hospitals", "banks", "factories"])
    parser.add_argument("--epsilon", nargs="*", default=["committed"], help="committed, inf, or numbers")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.first, options.first + options.seeds)
    try:
        results = [measure(s, e, seeds, options.data) for s in options.scenarios for e in options.epsilon]
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps([asdict(r) for r in results], indent=1) if options.json else table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
