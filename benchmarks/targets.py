"""The committed scenarios on the public data, as committed and without noise, against what they must reach.

    python benchmarks/targets.py --data ../shared/data [--quick] [--json]

Hospitals vary the contract's seed (FLamby fixes the test rows; the seed draws the validation rows), banks and
factories the split. Each number is the mean over participants, then over seeds; sd is over seeds. One participant's
AUC is left out of a seed's mean where its test rows have one class. Every ε that a run reports must lie within its
budget. `--quick` takes two seeds instead of five. Exits 1 when a target is missed. About four minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from consortia.common.errors import InputError
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare

SEEDS = (42, 43, 44, 45, 46)


@dataclass(frozen=True)
class Target:
    """A scenario's mean metric over participants and seeds, and what it must reach."""

    scenario: str
    metric: str
    private: bool
    wanted: float
    seeded_by: str


TARGETS = (
    Target("hospitals-network", "accuracy", False, 0.79, "seed"),
    Target("hospitals-network", "accuracy", True, 0.78, "seed"),
    Target("banks-network", "auc", False, 0.78, "split_seed"),
    Target("banks-network", "auc", True, 0.76, "split_seed"),
    Target("factories-network", "auc", False, 0.93, "split_seed"),
    Target("factories-network", "auc", True, 0.85, "split_seed"),
)


@dataclass(frozen=True)
class Measured:
    """What a target's runs gave, one number a seed."""

    target: Target
    seeds: tuple[int, ...]
    federated: tuple[float, ...]
    local: tuple[float, ...]
    epsilon: float | None
    left_out: int
    missed: tuple[str, ...]

    @property
    def got(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.federated)

    @property
    def reached(self) -> bool:
        """Whether the mean is high enough and every run did what its scenario expects."""
        return self.got >= self.target.wanted and not self.missed


def measure(target: Target, data: Path, seeds: tuple[int, ...]) -> Measured:
    """Run the scenario once a seed."""
    federated, local, epsilons, missed = [], [], [], []
    left_out = 0
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            options = Options(
                scenario=target.scenario,
                data=data,
                out=Path(folder),
                epsilon=() if target.private else ("inf",),
                **{target.seeded_by: seed},  # type: ignore[arg-type]
            )
            outcome = execute(prepare(options), options)
        participants = outcome.result["participants"].values()
        missed += [f"seed {seed}: {text}" for text in outcome.missed]
        metrics = [participant["metrics"].get(target.metric, {}) for participant in participants]
        known = [m for m in metrics if m.get("federated") is not None]
        federated.append(statistics.fmean(m["federated"] for m in known) if known else math.nan)
        local.append(statistics.fmean(m["local"] for m in known) if known else math.nan)
        left_out += len(metrics) - len(known)
        if any(participant["epsilon"]["non_private"] is target.private for participant in participants):
            missed.append(f"seed {seed}: a participant was private where it should not be, or the reverse")
        epsilons += [participant["epsilon"]["run"] or 0.0 for participant in participants if target.private]
        print(f"{target.scenario} {_budget(target)} seed {seed}: {federated[-1]:.4f}", file=sys.stderr, flush=True)
    largest = max(epsilons) if epsilons else None
    return Measured(target, seeds, tuple(federated), tuple(local), largest, left_out, tuple(missed))


def _budget(target: Target) -> str:
    return "as committed" if target.private else "non-private"


def _row(*cells: str) -> str:
    widths = (10, 13, 9, 7, 6, 6, 6, 6, 11, 7)
    return " ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def table(results: list[Measured]) -> str:
    """The results as text."""
    lines = [_row("scenario", "privacy", "metric", "wanted", "got", "sd", "lowest", "local", "largest ε", "")]
    for each in results:
        spread = statistics.stdev(each.federated) if len(each.federated) > 1 else 0.0
        lines.append(
            _row(
                each.target.scenario,
                _budget(each.target),
                each.target.metric,
                f">= {each.target.wanted:.2f}",
                f"{each.got:.4f}",
                f"{spread:.4f}",
                f"{min(each.federated):.4f}",
                f"{statistics.fmean(each.local):.4f}",
                "inf" if each.epsilon is None else f"{each.epsilon:.4f}",
                "reached" if each.reached else "MISSED",
            )
        )
    return "\n".join(lines)


def main() -> int:
    """Measure every target; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the public data sets")
    parser.add_argument("--quick", action="store_true", help="two seeds instead of five")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    seeds = SEEDS[:2] if options.quick else SEEDS
    try:
        results = [measure(target, options.data, seeds) for target in TARGETS]
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([{**asdict(r), "got": r.got, "reached": r.reached} for r in results], indent=1))
    else:
        print(f"seeds {', '.join(map(str, seeds))}; mean over participants, then over seeds")
        print(table(results))
        for each in results:
            if each.left_out:
                print(f"{each.target.scenario}, {_budget(each.target)}: {each.left_out} participants' values left out")
            for text in each.missed:
                print(f"{each.target.scenario}, {_budget(each.target)}: {text}")
    return 0 if all(each.reached for each in results) else 1


if __name__ == "__main__":
    sys.exit(main())
