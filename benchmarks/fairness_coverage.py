"""Fairness by group under DP: how often the intervals hold, and how often equal groups are called different.

    python benchmarks/fairness_coverage.py [--repetitions 1000] [--epsilon 1 3] [--json]

Two or three groups of rows with scores and labels as in `dp_metrics.py`; in the cases "other" one group has other
shares, another ranking and scores that say too little. A repetition draws rows, makes one histogram of score by class
and group with fresh noise and reads every measure. `coverage` is against the value in the population, from 500,000
rows a group; `curve` is that of all points of the calibration curve, `lowest` that of the point that holds least often;
`together` is how often all differences of a repetition hold at once; `alarms` is how often any measure of equal groups
"differs"; `found` is how often one of groups that differ does. One release at (epsilon, delta = 1e-5), unit record.
Exits 1 when an interval holds in less than 93 % (a point of the curve: 92 %) or alarms are more than 7 %.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from typing import Any

import numpy as np
from dp_metrics import DELTA, NOISE, TARGET, draw
from numpy.typing import NDArray

from clients.metrics import compute
from consortia.metrics.fairness import MEASURES, fairness
from consortia.metrics.groups import by_group
from consortia.metrics.score_bins import cells, edges
from privacy.histogram import noisy_histogram, plan_noise

BINS, THRESHOLD = 24, 0.5
#: name, groups: (rows, share of positives, shift between the classes, log-odds that the scores lack)
CASES: tuple[tuple[str, tuple[tuple[int, float, float, float], ...]], ...] = (
    ("two equal", ((400, 0.3, 1.5, 0.0), (400, 0.3, 1.5, 0.0))),
    ("three equal, one small", ((1000, 0.3, 1.5, 0.0), (500, 0.3, 1.5, 0.0), (120, 0.3, 1.5, 0.0))),
    ("two, one other", ((600, 0.3, 2.5, 0.0), (300, 0.15, 1.0, 0.7))),
    ("three, one other", ((2000, 0.3, 2.0, 0.0), (2000, 0.3, 2.0, 0.0), (500, 0.5, 0.8, 0.5))),
)
Array = NDArray[np.float64]


def drawn(rng: np.random.Generator, groups: Any) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return scores, labels and groups of rows."""
    parts = []
    for number, (rows, share, shift, lacking) in enumerate(groups):
        scores, label = draw(rng, rows, share, shift)
        said = scores / (scores + (1 - scores) * np.exp(lacking))
        parts.append((said, label, np.full(rows, number)))
    scores, label, code = (np.concatenate(each) for each in zip(*parts, strict=True))
    return scores, label, code


def truth(rng: np.random.Generator, groups: Any, rows: int) -> list[dict[str, dict[str, Any]]]:
    """Return for each group its measures in the population ("own") and those of all others together ("rest")."""
    whole = sum(one[0] for one in groups)
    scores, label, code = drawn(rng, [(round(rows * len(groups) * one[0] / whole), *one[1:]) for one in groups])
    return [
        {"own": _exact(scores[mask], label[mask]), "rest": _exact(scores[~mask], label[~mask])}
        for mask in (code == number for number in range(len(groups)))
    ]


def _exact(scores: Array, label: Array) -> dict[str, Any]:
    called = scores >= THRESHOLD
    place = np.searchsorted(edges(TARGET, BINS)[1:-1], scores, side="right") * 8 // BINS
    rows, positives = np.bincount(place, minlength=8), np.bincount(place, label, minlength=8)
    return {
        "calibration": positives / np.maximum(rows, 1),
        "auc": float(compute(("auc",), "binary", scores, label)["auc"] or 0.0),
        "positive_rate": float(called.mean()),
        "true_positive_rate": float(called[label == 1].mean()),
        "false_positive_rate": float(called[label == 0].mean()),
        "calibration_gap": float((label - scores).mean()),
    }


@functools.cache
def known_of(groups: Any, rows: int) -> list[dict[str, dict[str, Any]]]:
    """Return the truth of a case, which no noise changes."""
    return truth(np.random.default_rng([rows, len(groups)]), groups, rows)


def measure(groups: Any, epsilon: float, repetitions: int, truth_rows: int = 500_000) -> dict[str, Any]:
    """Repeat one case."""
    rng = np.random.default_rng([len(groups), *(one[0] for one in groups), round(100 * groups[-1][1])])
    noise = plan_noise(epsilon=epsilon, delta=DELTA, releases=1)
    known = known_of(groups, truth_rows)
    names = [f"group {number}" for number in range(len(groups))]
    held = dict.fromkeys(MEASURES, 0)
    curves = np.zeros((len(groups), 8))
    seen = np.zeros(len(groups))
    told = together = alarms = differ = 0
    for _ in range(repetitions):
        scores, label, code = drawn(rng, groups)
        cell = by_group(cells(TARGET, scores, label, BINS), code, 2 * BINS)
        shape = (len(groups), 2, BINS)
        counts = noisy_histogram(
            cell, int(np.prod(shape)), np.arange(len(cell)), rows_per_unit=1, noise=noise, context=NOISE
        ).reshape(shape)
        found = fairness(TARGET, names, counts.astype(np.float64), noise.deviation(1))
        for number, group in enumerate(found.groups):
            told += bool(group.measures)
            seen[number] += bool(group.measures)
            for place, point in enumerate(group.calibration):
                curves[number, place] += point.rate.low <= known[number]["own"]["calibration"][place] <= point.rate.high
            for name, one in group.measures.items():
                held[name] += one.low <= known[number]["own"][name] <= one.high
        true = [known[names.index(d.group)] for d in found.differences]
        together += all(
            d.low <= one["own"][d.measure] - one["rest"][d.measure] <= d.high
            for d, one in zip(found.differences, true, strict=True)
        )
        alarms += any(d.verdict == "differs" for d in found.differences)
        differ += any(d.verdict == "differs" and d.group == names[-1] for d in found.differences)
    equal = len({one[1:] for one in groups}) == 1
    return {
        "groups": [list(one) for one in groups],
        "shown": told / repetitions / len(groups),
        "coverage": {name: held[name] / max(told, 1) for name in MEASURES},
        "curve": float(curves.sum() / max(8 * told, 1)),
        "lowest": float(
            (curves / np.maximum(seen, 1)[:, None]).min(initial=1.0, where=seen[:, None] > repetitions / 4)
        ),
        "together": together / repetitions,
        "alarms": alarms / repetitions if equal else None,
        "found": None if equal else max(alarms, differ) / repetitions,
    }


def main() -> int:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--epsilon", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {
        f"{name}, ε = {epsilon:g}": measure(groups, epsilon, arguments.repetitions)
        for epsilon in arguments.epsilon
        for name, groups in CASES
    }
    missed = [
        name
        for name, case in found.items()
        if min(*case["coverage"].values(), case["curve"], case["together"]) < 0.93
        or case["lowest"] < 0.92
        or (case["alarms"] or 0.0) > 0.07
    ]
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        print(f"delta {DELTA:g}, one release, unit record, {arguments.repetitions} repetitions")
        print(
            f"{'case':<31} shown  {' '.join(name[:12].rjust(12) for name in MEASURES)}  curve  lowest  together  alarms"
            "  found"
        )
        for name, case in found.items():
            coverage = " ".join(f"{case['coverage'][one]:12.3f}" for one in MEASURES)
            ends = "  ".join("     –" if case[key] is None else f"{case[key]:6.3f}" for key in ("alarms", "found"))
            print(
                f"{name:<31} {case['shown']:5.2f}  {coverage}  {case['curve']:.3f}  {case['lowest']:6.3f}  "
                f"{case['together']:8.3f}  {ends}"
            )
        print(f"missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
