"""Computes metrics from released noisy histograms: post-processing at no further cost.

Every interval is a 95 % one for the value in the population that the units were drawn from, and counts both the noise
and the sampling. A ratio (accuracy, Brier score, error, a rate) and the AUC are inverted from a test, so that
they stay honest where few rows and much noise leave nothing to divide by:

* ratio: all a with |sum c (g - a)| <= 1.96 sqrt(V(a)), V(a) = s^2 sum (g - a)^2 + k sum c (g - a)^2
  (Fieller, "Some Problems in Interval Estimation", JRSS B 1954), with c the noisy counts, g the cell's value, s the
  deviation of the noise and k rows a unit at most. Of a share (g = 0 or 1) the second term is k N a (1 - a) where that
  is more, N = sum c: with few rows of one kind in a cell the counts alone say too little of their scatter (Wilson,
  "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927);
* AUC: the same for sum p_i n_j (h_ij - a), h = 1, 1/2, 0, with the variance of DeLong, DeLong & Clarke-Pearson,
  "Comparing the Areas under Two or More Correlated ROC Curves", Biometrics 1988, for the sampling;
* balanced accuracy: as the AUC, with h = 1, 1/2, 0 where the decisions at one half, not the scores, differ;
* average precision has no such form: a bootstrap from the histogram projected onto non-negative counts. The projection
  pulls the estimate down by about .03 at 80 positives; the interval is the union of the basic and the
  percentile one, a little wider than 95 %, since either alone covers less than it says (benchmarks/dp_metrics.py).

Point values need enough positives (`MINIMUM_POSITIVES`); below, there is an interval only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients.schema import Target
from consortia.metrics.score_bins import centres
from privacy.randomness import numpy_generator

Array = NDArray[np.float64]
MINIMUM_POSITIVES = 80
_Z = 1.96
_GRID = 2001
_RESAMPLES = 300
_CALIBRATION_BINS = 8


@dataclass(frozen=True)
class Estimate:
    """A released metric: a point, or None where the counts are too small for one, and a 95 % interval."""

    value: float | None
    low: float
    high: float


@dataclass(frozen=True)
class CalibrationPoint:
    """The share of positives among scores in [low_score, high_score)."""

    low_score: float
    high_score: float
    rate: Estimate


#: What `from_histogram` gives, by the target's kind.
HISTOGRAM_METRICS = {
    "binary": ("auc", "auprc", "accuracy", "balanced_accuracy", "brier"),
    "multiclass": ("accuracy",),
    "multilabel": ("label_brier",),
    "regression": ("rmse", "mae"),
    "anomaly": ("auc", "auprc"),
}


def from_histogram(
    target: Target, counts: Array, deviation: float, rows_per_unit: int = 1, minimum: int = MINIMUM_POSITIVES
) -> dict[str, Estimate]:
    """Return every metric that a histogram gives.

    Parameters
    ----------
    counts : array (1 or 2, n_bins)
        As released: classes (or wrong, right) by score bin; one line of absolute errors for a regression.
    deviation : float
        Standard deviation of the noise in a cell. 0 is for exact counts.
    rows_per_unit : int
        At most as many rows has a unit: their sampling errors may all go the same way.
    minimum : int
        Positives (rows, where there are none) below which there is no point value.
    """
    counts = np.asarray(counts, dtype=np.float64)
    middle = centres(target, counts.shape[1])
    if target.kind == "regression":
        if target.low is None or target.high is None:
            raise ValueError(f"target {target.name}: wanted public bounds low and high, got none")
        span = target.high - target.low
        absolute = ratio(counts, middle[None], deviation, rows_per_unit, (0.0, 1.0))
        squared = ratio(counts, middle[None] ** 2, deviation, rows_per_unit, (0.0, 1.0))
        enough = float(counts.sum()) >= minimum
        return {
            "rmse": _scaled(squared, lambda a: span * math.sqrt(a), enough),
            "mae": _scaled(absolute, lambda a: span * a, enough),
        }
    if target.kind == "multilabel":
        squared = ratio(counts, middle[None], deviation, rows_per_unit, (0.0, 1.0))
        return {"label_brier": _scaled(squared, lambda a: a, float(counts.sum()) >= minimum)}
    if target.kind == "multiclass":
        enough = float(counts.sum()) >= minimum
        right = np.vstack([np.zeros_like(middle), np.ones_like(middle)])
        accuracy = ratio(counts, right, deviation, rows_per_unit, (0.0, 1.0))
        return {"accuracy": _scaled(accuracy, lambda a: a, enough)}
    enough = float(counts[1].sum()) >= minimum
    order = {
        "auc": auc(counts, deviation, rows_per_unit),
        "auprc": average_precision(counts, deviation, rows_per_unit),
    }
    if target.kind == "anomaly":  # its score is no probability
        return {name: _scaled(estimate, lambda a: a, enough) for name, estimate in order.items()}
    correct = np.vstack([middle < 0.5, middle >= 0.5]).astype(np.float64)
    squares = np.vstack([middle**2, (1 - middle) ** 2])
    found = {
        **order,
        "accuracy": ratio(counts, correct, deviation, rows_per_unit, (0.0, 1.0)),
        "balanced_accuracy": balanced_accuracy(counts, deviation, rows_per_unit),
        "brier": ratio(counts, squares, deviation, rows_per_unit, (0.0, 1.0)),
    }
    return {name: _scaled(estimate, lambda a: a, enough) for name, estimate in found.items()}


def calibration(target: Target, counts: Array, deviation: float, rows_per_unit: int = 1) -> list[CalibrationPoint]:
    """Return the calibration curve: the share of the second line of a histogram, by groups of score bins."""
    counts = np.asarray(counts, dtype=np.float64)
    if target.kind in {"regression", "anomaly", "multilabel"}:
        return []
    from consortia.metrics.score_bins import edges

    bounds = edges(target, counts.shape[1])
    groups = np.array_split(np.arange(counts.shape[1]), _CALIBRATION_BINS)
    points = []
    for group in groups:
        part = counts[:, group]
        value = np.vstack([np.zeros(len(group)), np.ones(len(group))])
        rate = ratio(part, value, deviation, rows_per_unit, (0.0, 1.0))
        enough = float(part.sum()) >= MINIMUM_POSITIVES
        points.append(
            CalibrationPoint(float(bounds[group[0]]), float(bounds[group[-1] + 1]), _scaled(rate, lambda a: a, enough))
        )
    return points


def _scaled(estimate: Estimate, change: Callable[[float], float], enough: bool) -> Estimate:
    """Apply an increasing function; drop the point where there are too few rows for one."""
    value = None if estimate.value is None or not enough else float(change(estimate.value))
    return Estimate(value, float(change(estimate.low)), float(change(estimate.high)))


def ratio(
    counts: Array, values: Array, deviation: float, rows_per_unit: int, bounds: tuple[float, float], z: float = _Z
) -> Estimate:
    """Return sum c g / sum c with the set of all a that a test of sum c (g - a) = 0 at `z` (5 %) does not reject."""
    c, g = counts.ravel(), np.broadcast_to(values, counts.shape).ravel()
    grid = np.linspace(*bounds, _GRID)
    total = float(c.sum())
    noise, rows = np.full(len(c), deviation**2), np.maximum(c, 0)
    scatter = _squares(rows, g, 1.0, grid)
    if np.isin(g, (0.0, 1.0)).all():  # of a share: that of rows of which a share of a counts, too
        scatter = np.maximum(scatter, max(total, 0.0) * grid * (1 - grid))
    variance = _squares(noise, g, 1.0, grid) + rows_per_unit * scatter
    return _inverted(grid, float(c @ g) - total * grid, variance, float(c @ g) / total if total > 0 else None, z)


def _squares(weights: Array, at: Array, slope: float, grid: Array) -> Array:
    """Return sum w (at - slope a)^2 for each a of `grid`; as a polynomial, since most of the time would go here."""
    constant, linear, square = float(weights @ at**2), float(weights @ at) * slope, float(weights.sum()) * slope**2
    return np.maximum(constant - 2 * linear * grid + square * grid**2, 0.0)  # a rounding may fall below zero


def _inverted(grid: Array, statistic: Array, variance: Array, value: float | None, z: float) -> Estimate:
    kept = grid[np.abs(statistic) <= z * np.sqrt(variance)]
    inside = value is not None and grid[0] <= value <= grid[-1]
    if value is not None:
        value = min(max(value, float(grid[0])), float(grid[-1]))
    if not len(kept):  # the statistic is zero beyond the bounds: as close to it as they allow
        edge = float(grid[int(np.argmin(np.abs(statistic)))])
        return Estimate(value, edge, edge)
    low, high = float(kept[0]), float(kept[-1])
    step = float(grid[1] - grid[0])
    if inside and value is not None:
        low, high = min(low, value), max(high, value)
    return Estimate(value, max(float(grid[0]), low - step), min(float(grid[-1]), high + step))


def auc(counts: Array, deviation: float, rows_per_unit: int = 1, z: float = _Z) -> Estimate:
    """Return the AUC, ties within a bin at one half, with its interval.

    The interval rests on the released counts, which are unbiased; the point on their projection onto non-negative
    ones, which is closer on average, since the noise of empty bins has the longest lever.
    """
    bins = counts.shape[1]
    # [i, j]: a positive of bin i against a negative of bin j
    above = np.tri(bins, k=-1) + 0.5 * np.eye(bins)
    return _pairs(counts, above, _project(counts), deviation, rows_per_unit, z)


def balanced_accuracy(counts: Array, deviation: float, rows_per_unit: int = 1) -> Estimate:
    """Return the mean share of a class that is called so: the AUC of the decisions at one half."""
    side = np.arange(counts.shape[1]) >= counts.shape[1] // 2
    above = (1 + np.subtract.outer(side.astype(np.float64), side.astype(np.float64))) / 2
    lines = np.maximum(np.stack([counts[:, ~side].sum(1), counts[:, side].sum(1)], axis=1), 0.0)
    whole = np.zeros_like(counts)
    whole[:, [0, -1]] = lines
    return _pairs(counts, above, whole, deviation, rows_per_unit)


def _pairs(counts: Array, above: Array, likely: Array, deviation: float, rows_per_unit: int, z: float = _Z) -> Estimate:
    """Return sum p_i n_j h_ij / sum p_i n_j: the interval from `counts`, the point from the counts `likely`."""
    negative, positive = counts
    grid = np.linspace(0.0, 1.0, _GRID)
    # S_i(a) = sum_j n_j (h_ij - a), T_j(a) = sum_i p_i (h_ij - a): linear in a.
    by_positive, by_negative = above @ negative, positive @ above
    n_negative, n_positive = float(negative.sum()), float(positive.sum())
    statistic = float(positive @ by_positive) - n_positive * n_negative * grid
    variance = _squares(deviation**2 + rows_per_unit * np.maximum(positive, 0), by_positive, n_negative, grid)
    variance += _squares(deviation**2 + rows_per_unit * np.maximum(negative, 0), by_negative, n_positive, grid)
    point = None
    if positive.sum() > 0 and negative.sum() > 0:
        n, p = likely
        if n.sum() > 0 and p.sum() > 0:
            point = float(p @ above @ n) / float(p.sum() * n.sum())
    return _inverted(grid, statistic, variance, point, z)


def average_precision(counts: Array, deviation: float, rows_per_unit: int = 1) -> Estimate:
    """Return the average precision with a basic bootstrap interval on the log-odds."""
    projected = _project(counts)
    if projected[1].sum() <= 0:
        return Estimate(None, 0.0, 1.0)
    value = float(_precision(projected[:, None])[0])
    rng = numpy_generator("average precision", counts.astype(np.int64).tobytes().hex())
    total = projected.sum()
    # Rows of a unit may be alike: as many draws as there are units at least, each of rows_per_unit rows.
    draws = max(1, round(total / rows_per_unit))
    drawn = rng.multinomial(draws, projected.ravel() / total, size=_RESAMPLES).astype(np.float64) * (total / draws)
    # Laplace or Gaussian of that deviation: the sums over many cells are alike.
    noised = drawn.reshape(_RESAMPLES, *counts.shape) + rng.laplace(
        0, deviation / math.sqrt(2) if deviation else 0.0, (_RESAMPLES, *counts.shape)
    )
    again = np.stack([_project(noised[:, line]) for line in range(2)])
    kept = again[1].sum(1) > 0
    if kept.mean() < 0.975:
        return Estimate(value, 0.0, 1.0)
    low, high = np.quantile(_odds(_precision(again[:, kept])), [0.0175, 0.9825])
    centre = float(_odds(np.array(value)))
    ends = [1 / (1 + math.exp(-end)) for end in (low, high, 2 * centre - high, 2 * centre - low)]
    return Estimate(value, min(*ends, value), max(*ends, value))


def _odds(value: Array) -> Array:
    clipped = np.clip(value, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _project(lines: Array) -> Array:
    """Return the closest non-negative counts of the same (at least zero) total, line by line, shape (m, n_bins).

    Duchi et al., "Efficient Projections onto the l1-Ball", ICML 2008, figure 1.
    """
    total = np.maximum(lines.sum(1, keepdims=True), 0.0)
    ordered = -np.sort(-lines, axis=1)
    excess = np.cumsum(ordered, axis=1) - total
    ranks = np.arange(1, lines.shape[1] + 1)
    last = np.maximum((ordered - excess / ranks > 0).sum(1) - 1, 0)
    shift = excess[np.arange(len(lines)), last] / (last + 1)
    return np.asarray(np.maximum(lines - shift[:, None], 0.0))


def _precision(lines: Array) -> Array:
    """Return the average precision of (negatives, positives), shape (2, m, n_bins), as (m,).

    Within a bin positives and negatives are taken as evenly mixed: the precision is averaged along it.
    """
    n, p = (np.flip(line, axis=-1) for line in lines)
    both = p + n
    hits = np.cumsum(p, axis=-1) - p
    taken = np.cumsum(both, axis=-1) - both
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(both > 0, p / both, 0.0)
        growth = np.where((taken > 0) & (both > 0), np.log1p(both / taken) / both, 0.0)
        mean = share + np.where(taken > 0, (hits - taken * share) * growth, 0.0)
        return np.asarray((mean * p).sum(-1) / p.sum(-1))
