"""Computes what a model is worth on rows: a number, or None where the metric is not defined.

A site may hold one class only (Switzerland's training rows are all positive): its AUC is None, never an
exception and never NaN. The values agree with scikit-learn's to rounding (tests/clients/test_metrics.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["HIGHER_IS_BETTER", "by_row", "compute", "names"]

Array = NDArray[np.float64]
Metric = Callable[[Array, Array], float | None]
CALIBRATION_BINS = 10
FLOOR = 1e-12


def names(kind: str) -> tuple[str, ...]:
    """The metrics that a target of that kind ("binary", "multiclass", "regression") can have."""
    return tuple(_METRICS[kind])


def compute(metrics: Iterable[str], kind: str, scores: Any, target: Any) -> dict[str, float | None]:
    """Every named metric of these rows.

    Parameters
    ----------
    metrics : iterable of str
        Out of `names(kind)`; KeyError otherwise.
    scores : array (n,) or (n, n_classes)
        What `clients.models.predict` gives.
    target : array (n,)
        0/1, class codes, or values.
    """
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(target, dtype=np.float64)
    values: dict[str, float | None] = {}
    for name in metrics:
        value = _METRICS[kind][name](s, y) if len(y) and np.isfinite(s).all() else None
        values[name] = None if value is None or not np.isfinite(value) else float(value)
    return values


def _auc(scores: Array, target: Array) -> float | None:
    """Area under the ROC curve as the Mann-Whitney statistic, ties at one half."""
    positives = int((target == 1).sum())
    negatives = len(target) - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    above = ranks[target == 1].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def _auprc(scores: Array, target: Array) -> float | None:
    """Average precision: precision at each threshold, weighted by the recall that it adds."""
    positives = (target == 1).sum()
    if not positives or positives == len(target):
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(target[order] == 1)
    last_of_tie = np.r_[np.diff(scores[order]) != 0, True]
    hits, taken = hits[last_of_tie], (np.arange(len(order)) + 1)[last_of_tie]
    return float(np.sum(np.diff(np.r_[0, hits]) * hits / taken) / positives)


def _right(scores: Array, target: Array) -> Array:
    return np.asarray((scores >= 0.5) == (target == 1), dtype=np.float64)


def _square(scores: Array, target: Array) -> Array:
    return np.asarray((scores - target) ** 2)


def _surprise(scores: Array, target: Array) -> Array:
    return np.asarray(-np.log(np.clip(np.where(target == 1, scores, 1 - scores), FLOOR, 1)))


def _class_right(scores: Array, target: Array) -> Array:
    return np.asarray(scores.argmax(axis=1) == target, dtype=np.float64)


def _class_surprise(scores: Array, target: Array) -> Array:
    return np.asarray(-np.log(np.clip(scores[np.arange(len(target)), target.astype(int)], FLOOR, 1)))


def _distance(scores: Array, target: Array) -> Array:
    return np.asarray(np.abs(scores - target))


#: What each row adds to a metric that is a mean over rows; the RMSE is the root of such a mean.
_BY_ROW: dict[str, dict[str, Callable[[Array, Array], Array]]] = {
    "binary": {"accuracy": _right, "brier": _square, "log_loss": _surprise},
    "multiclass": {"accuracy": _class_right, "log_loss": _class_surprise},
    "regression": {"rmse": _square, "mae": _distance},
}


def by_row(metric: str, kind: str, scores: Array, target: Array) -> Array | None:
    """What each row (n,) adds to a metric that is their mean (for the RMSE the root of it), or None for another."""
    rule = _BY_ROW[kind].get(metric)
    return None if rule is None else rule(scores, target)


def _mean(rule: Callable[[Array, Array], Array]) -> Metric:
    return lambda scores, target: float(np.mean(rule(scores, target)))


def _ece(scores: Array, target: Array) -> float:
    """Expected calibration error: |mean score - rate| over ten equal bins, weighted by their rows."""
    place = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(place, weights=scores - target, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(target))


def _macro_auc(scores: Array, target: Array) -> float | None:
    """Mean one-against-rest AUC over all classes; None when one of them is absent."""
    each = [_auc(scores[:, code], (target == code).astype(np.float64)) for code in range(scores.shape[1])]
    present = [value for value in each if value is not None]
    return float(np.mean(present)) if len(present) == len(each) else None


def _rmse(scores: Array, target: Array) -> float:
    return float(np.sqrt(np.mean(_square(scores, target))))


def _r2(scores: Array, target: Array) -> float | None:
    spread = float(np.sum((target - target.mean()) ** 2))
    return None if spread == 0 else float(1 - np.sum((scores - target) ** 2) / spread)


_METRICS: dict[str, dict[str, Metric]] = {
    "binary": {
        "auc": _auc,
        "auprc": _auprc,
        "accuracy": _mean(_right),
        "brier": _mean(_square),
        "ece": _ece,
        "log_loss": _mean(_surprise),
    },
    "multiclass": {
        "accuracy": _mean(_class_right),
        "macro_auc": _macro_auc,
        "log_loss": _mean(_class_surprise),
    },
    "regression": {"rmse": _rmse, "mae": _mean(_distance), "r2": _r2},
}
HIGHER_IS_BETTER = {
    name: name in {"auc", "auprc", "accuracy", "macro_auc", "r2"} for kind in _METRICS.values() for name in kind
}
