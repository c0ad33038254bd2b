"""Metrics under DP: how far the released AUC is from the exact one, and how often the intervals hold.

    python benchmarks/dp_metrics.py [--repetitions 1000] [--epsilon 3] [--json]

Scores are sigmoid(logit), logits normal in each class and calibrated (shift d, variance d, prior odds); a repetition
draws rows, makes one histogram with fresh noise and reads the metrics. `error` is against the exact AUC of the same
rows, `coverage` against the value in the population, from two million rows. All at one release of the evaluation
partition's own (epsilon, delta = 1e-5), unit record. Exits 1 when a target is missed: AUC within .02 on
average for 80 positives and more, coverage of at least 90 %. About one minute for each 1000 repetitions.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.metrics import compute
from clients.schema import Target
from consortia.metrics.from_histograms import from_histogram
from consortia.metrics.score_bins import cells
from privacy.histogram import noisy_histogram, plan_noise
from privacy.noise_context import NoiseContext

#: What noise in a benchmark is for: no message.
NOISE = NoiseContext(purpose="benchmark", message="benchmark", attempt=0, ledger="")
TARGET = Target(name="y", kind="binary", classes=("no", "yes"))
DELTA = 1e-5
METRICS = ("auc", "auprc", "accuracy", "balanced_accuracy", "brier")
#: rows, share of positives, shift between the classes in log-odds
CASES = (
    (60, 0.3, 1.5),
    (200, 0.15, 1.5),
    (160, 0.5, 1.5),
    (270, 0.3, 1.0),
    (270, 0.3, 3.0),
    (2700, 0.03, 1.5),
    (2700, 0.03, 4.0),
    (2000, 0.3, 1.5),
)


def draw(
    rng: np.random.Generator, rows: int, share: float, shift: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return calibrated scores and labels: with equal variances v = shift the log-odds of the score are its logit."""
    label = (rng.random(rows) < share).astype(np.float64)
    logit = rng.normal(0, math.sqrt(shift), rows) + shift * (label - 0.5) + math.log(share / (1 - share))
    return 1 / (1 + np.exp(-logit)), label


def measure(
    case: tuple[int, float, float], epsilon: float, repetitions: int, bins: int, truth_rows: int = 2_000_000
) -> dict[str, Any]:
    """Repeat one case."""
    rows, share, shift = case
    rng = np.random.default_rng([rows, int(1000 * share), int(10 * shift)])
    noise = plan_noise(epsilon=epsilon, delta=DELTA, releases=1)
    truth = compute(METRICS, "binary", *draw(rng, truth_rows, share, shift))
    errors, covered, widths = [], dict.fromkeys(METRICS, 0), []
    points = 0
    for _ in range(repetitions):
        scores, label = draw(rng, rows, share, shift)
        exact = compute(METRICS, "binary", scores, label)["auc"]
        counts = noisy_histogram(
            cells(TARGET, scores, label, bins), 2 * bins, np.arange(rows), rows_per_unit=1, noise=noise, context=NOISE
        ).reshape(2, bins)
        found = from_histogram(TARGET, counts.astype(np.float64), noise.deviation(1))
        if found["auc"].value is not None and exact is not None:
            points += 1
            errors.append(abs(found["auc"].value - exact))
        widths.append(found["auc"].high - found["auc"].low)
        for name in METRICS:
            wanted = truth[name]
            covered[name] += wanted is not None and found[name].low <= wanted <= found[name].high
    return {
        "rows": rows,
        "positives": rows * share,
        "auc": truth["auc"],
        "points": points / repetitions,
        "error": float(np.mean(errors)) if errors else None,
        "error_95": float(np.quantile(errors, 0.95)) if errors else None,
        "width": float(np.mean(widths)),
        "coverage": {name: covered[name] / repetitions for name in METRICS},
    }


def main() -> int:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--epsilon", type=float, default=3.0)
    parser.add_argument("--bins", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = [measure(case, arguments.epsilon, arguments.repetitions, arguments.bins) for case in CASES]
    missed = [
        case
        for case in found
        if min(case["coverage"].values()) < 0.9 or (case["positives"] >= 80 and (case["error"] or 0) > 0.02)
    ]
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        noise = plan_noise(epsilon=arguments.epsilon, delta=DELTA, releases=1)
        print(
            f"epsilon {arguments.epsilon:g}, delta {DELTA:g}, one release, unit record, add/remove one: "
            f"{noise.mechanism} noise, multiplier {noise.multiplier:g}; {arguments.bins} bins; "
            f"{arguments.repetitions} repetitions"
        )
        print("  rows positives   AUC  points  error mean/95%  width  coverage " + " ".join(METRICS))
        for case in found:
            error = "      –      " if case["error"] is None else f"{case['error']:.4f} {case['error_95']:.4f}"
            coverage = " ".join(f"{case['coverage'][name]:.3f}" for name in METRICS)
            print(
                f"{case['rows']:>6}{case['positives']:>10.0f}{case['auc']:>6.3f}{case['points']:>8.2f}  {error:>14}"
                f"{case['width']:>7.3f}  {coverage:>14}"
            )
        print("missed: " + (", ".join(str(case["rows"]) for case in missed) if missed else "none"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
