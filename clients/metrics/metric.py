"""Defines a metric as one value: its name, label, direction, weighted function and interval.

Everything reads it from here: receipts, tables, early stopping, the choice among models, intervals of gains.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["MINIMUM_UNITS", "Interval", "Metric", "by_row", "by_sample", "paired_bootstrap"]

log = logging.getLogger("clients.metrics")

Array = NDArray[np.float64]
Kind = Literal["binary", "multiclass", "multilabel", "regression", "anomaly"]
Weighted = Callable[[Array, Array, Array], Array]

#: Units that a 95 % interval needs; with fewer there is none.
MINIMUM_UNITS: Final = 10
_RESAMPLES: Final = 500
#: Units above which fewer resamples are drawn: an interval of many units is narrow anyway.
_MANY, _FEW_RESAMPLES = 20_000, 50
#: Weights that are in memory at once.
_AT_ONCE: Final = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A gain with its 95 % interval; positive where the left scores are better."""

    value: float
    low: float
    high: float


def by_row(rule: Callable[[Array, Array], Array], after: Callable[[Array], Array] = np.asarray) -> Weighted:
    """Make a weighted function of a mean over rows.

    Parameters
    ----------
    rule : callable
        (scores, target) -> (n,): what each row adds to the mean.
    after : callable
        Of the means (m,), such as `numpy.sqrt` for a root mean square.
    """

    def weighted(scores: Array, target: Array, weights: Array) -> Array:
        return np.asarray(after(weights @ rule(scores, target) / weights.sum(1)))

    return weighted


def by_sample(function: Callable[[Array, Array, Array], float | None]) -> Weighted:
    """Make a weighted function of a function of one sample, such as most of scikit-learn's.

    Parameters
    ----------
    function : callable
        (scores, target, weights (n,)) -> a number, or None where it is not defined. It gets the rows of positive
        weight alone, at least one.
    """

    def weighted(scores: Array, target: Array, weights: Array) -> Array:
        found = []
        for one in weights:
            there = one > 0
            value = function(scores[there], target[there], one[there]) if there.any() else None
            found.append(np.nan if value is None else value)
        return np.asarray(found, dtype=np.float64)

    return weighted


def paired_bootstrap(
    metric: Metric,
    left: Array,
    right: Array,
    target: Array,
    units: NDArray[np.int64],
    generator: np.random.Generator,
) -> Interval | None:
    """Return left minus right with a 95 % percentile interval of a paired bootstrap over units, or None.

    Units are resampled with all their rows, the same for both scores. Fewer than `MINIMUM_UNITS` give no interval:
    resampling one unit 500 times gives one number 500 times, whatever the truth is.

    Parameters
    ----------
    left, right : arrays (n,) or (n, n_classes)
    units : array (n,)
        The unit of each row, 0 to n_units - 1.
    """
    n_units = int(units.max()) + 1 if len(units) else 0
    if n_units < MINIMUM_UNITS:
        return None

    def gains(draws: NDArray[Any]) -> Array:
        weights = np.asarray(draws[:, units], dtype=np.float64)
        return metric.sign * (
            metric.values(left, target, weights, units) - metric.values(right, target, weights, units)
        )

    value = float(gains(np.ones((1, n_units)))[0])
    if not np.isfinite(value):
        return None
    resamples = _RESAMPLES if n_units <= _MANY else _FEW_RESAMPLES
    at_once = max(1, _AT_ONCE // max(n_units, len(units)))
    shares = np.full(n_units, 1 / n_units)
    parts = [
        gains(generator.multinomial(n_units, shares, size=min(at_once, resamples - start)))
        for start in range(0, resamples, at_once)
    ]
    resampled = np.concatenate(parts)
    resampled = resampled[np.isfinite(resampled)]
    if len(resampled) < resamples // 2:
        return None
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(value, float(low), float(high))


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measure of a model on rows.

    Parameters
    ----------
    name : str
        The word in clients, policies and records: small letters, digits, underscores.
    label : str
        What people read.
    better : "higher" or "lower"
        The direction.
    kinds : tuple of str
        The kinds of targets that it measures: "binary", "multiclass", "multilabel", "regression", "anomaly".
    weighted : callable
        (scores (n,) or (n, classes or labels), target (n,), weights (m, n)) -> (m,): the value of each of m samples in
        which row i counts as `weights[:, i]` rows (0 = it is not there), NaN where it is not defined. Scores of binary
        targets are probabilities of class 1, those of anomalies lie in [0, 1) and mean their order alone; targets are
        0/1, class codes, codes of labels (the sum of 2 ** place over those that are there) or values. `by_row` and
        `by_sample` make such a function.
    by_unit : bool
        Whether `weighted` measures the rows of one unit, as a ranking of what a user rated: the value of several units
        is the mean over those for which it is defined. Rows of unknown units count as one unit's.
    within : bool
        Whether rows are compared with others of their stratum only (`clients.schema.Target.within`). Where a target
        has strata, the function gets them beside it, (n, 2); elsewhere the target (n,) as any other metric.
    interval : callable
        (metric, left, right, target, units (n,), generator) -> `Interval` of left minus right, or None. Units, not
        rows, are what a sample is drawn from.
    """

    name: str
    label: str
    better: Literal["higher", "lower"]
    kinds: tuple[Kind, ...]
    weighted: Weighted
    within: bool = False
    interval: Callable[[Metric, Array, Array, Array, NDArray[np.int64], np.random.Generator], Interval | None] = (
        paired_bootstrap
    )
    by_unit: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", self.name):
            raise ValueError(f"metric: name: wanted small letters, digits and underscores, got {self.name!r}")
        if not isinstance(self.label, str) or not self.label.strip() or not self.label.isprintable():
            raise ValueError(f"metric {self.name}: label: wanted a text in one line, got {self.label!r}")
        if self.better not in {"higher", "lower"}:
            raise ValueError(f"metric {self.name}: better: wanted 'higher' or 'lower', got {self.better!r}")
        if not isinstance(self.kinds, tuple) or not self.kinds or not set(self.kinds) <= set(get_args(Kind)):
            raise ValueError(f"metric {self.name}: kinds: wanted some of {get_args(Kind)}, got {self.kinds!r}")

    def values(self, scores: Any, target: Any, weights: Array, units: Any = None) -> Array:
        """Return the value of each weighted sample, shape (m,); NaN where it is not defined.

        `units` (n,) says whose each row is; only a metric `by_unit` asks for it.

        A function that fails or gives another shape counts as not defined; the log says so, without any value.
        """
        s, y = np.asarray(scores, dtype=np.float64), self._seen(target)
        nothing = np.full(len(weights), np.nan)
        if not len(y) or not np.isfinite(s).all():
            return nothing
        try:
            with np.errstate(all="ignore"):
                by_unit = self.by_unit and units is not None
                whole = self._over_units(s, y, weights, np.asarray(units)) if by_unit else self.weighted(s, y, weights)
                found = np.asarray(whole, dtype=np.float64)
        except Exception as error:  # noqa: BLE001 - a metric is a convenience, and the text may hold a row's value
            log.error("metric %s has no value: its function raised %s", self.name, type(error).__name__)
            return nothing
        if found.shape != nothing.shape:
            log.error("metric %s has no value: wanted shape %s, got %s", self.name, nothing.shape, found.shape)
            return nothing
        return np.where(np.isfinite(found), found, np.nan)

    def _seen(self, target: Any) -> Array:
        """Return the target (n,), or (n, 2) with its strata where they count."""
        y = np.asarray(target, dtype=np.float64)
        return y[:, 0] if y.ndim == 2 and not self.within else y

    def _over_units(self, scores: Array, target: Array, weights: Array, units: NDArray[Any]) -> Array:
        order = np.argsort(units, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(units[order])) + 1)
        each = np.array([self.weighted(scores[g], target[g], np.ones((1, len(g))))[0] for g in groups])
        there = np.isfinite(each)
        shares = np.stack([weights[:, g].mean(1) for g in groups], axis=1)[:, there]
        return np.asarray(shares @ each[there] / shares.sum(1))

    def value(self, scores: Any, target: Any, units: Any = None) -> float | None:
        """Return the value on all rows, or None where it is not defined: never an exception, never NaN."""
        found = float(self.values(scores, target, np.ones((1, len(target))), units)[0])
        return found if np.isfinite(found) else None

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1: `sign * (left - right)` is how much better left is."""
        return 1 if self.better == "higher" else -1

    def gain(self, left: Any, right: Any, target: Any, units: Any, generator: np.random.Generator) -> Interval | None:
        """Return how much better `left` is than `right`, with the metric's own interval; None where it has none.

        Parameters
        ----------
        left, right : arrays (n,) or (n, n_classes)
        units : array (n,)
            The unit of each row, 0 to n_units - 1.
        generator : Generator
            The only source of chance.
        """
        a, b, y = (*(np.asarray(each, dtype=np.float64) for each in (left, right)), self._seen(target))
        try:
            found = self.interval(self, a, b, y, np.asarray(units, dtype=np.int64), generator)
        except Exception as error:  # noqa: BLE001 - as in `values`
            log.error("metric %s has no interval: its function raised %s", self.name, type(error).__name__)
            return None
        finite = found is not None and np.isfinite([found.value, found.low, found.high]).all()
        return found if finite else None
