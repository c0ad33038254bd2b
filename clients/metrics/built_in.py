"""Defines the built-in metrics, in plain numpy.

A site may hold one class only (Switzerland's training rows are all positive): its AUC is not defined, which is no
exception. The values agree with scikit-learn's, weighted ones too (tests/clients/test_metrics.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clients.metrics.metric import Metric, by_row

__all__ = ["ACCURACY", "AUC", "AUPRC", "BRIER", "ECE", "LOG_LOSS", "MACRO_AUC", "MAE", "R2", "RMSE"]

Array = NDArray[np.float64]
CALIBRATION_BINS = 10
FLOOR = 1e-12


def _auc(scores: Array, target: Array, weights: Array) -> Array:
    """Area under the ROC curve as the Mann-Whitney statistic, ties at one half."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    positive = np.add.reduceat((weights * (target == 1))[:, order], starts, axis=1)
    negative = np.add.reduceat((weights * (target != 1))[:, order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    return np.asarray((positive * (below + negative / 2)).sum(1) / (positive.sum(1) * negative.sum(1)))


def _macro_auc(scores: Array, target: Array, weights: Array) -> Array:
    """Mean one-against-rest AUC over all classes; not defined when one of them is absent."""
    each = [_auc(scores[:, code], (target == code).astype(np.float64), weights) for code in range(scores.shape[1])]
    return np.asarray(np.mean(each, axis=0))


def _auprc(scores: Array, target: Array, weights: Array) -> Array:
    """Average precision: precision at each threshold, weighted by the recall that it adds. One class has none."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    added = np.add.reduceat((weights * (target == 1))[:, order], starts, axis=1)
    hits = np.cumsum(added, axis=1)
    taken = np.cumsum(np.add.reduceat(weights[:, order], starts, axis=1), axis=1)
    precision = np.divide(hits, taken, out=np.zeros_like(hits), where=taken > 0)
    positives = hits[:, -1]
    return np.where(positives < taken[:, -1], (added * precision).sum(1) / positives, np.nan)


def _right(scores: Array, target: Array) -> Array:
    found = scores.argmax(axis=1) == target if scores.ndim == 2 else (scores >= 0.5) == (target == 1)
    return np.asarray(found, dtype=np.float64)


def _surprise(scores: Array, target: Array) -> Array:
    if scores.ndim == 2:
        given = scores[np.arange(len(target)), target.astype(int)]
    else:
        given = np.where(target == 1, scores, 1 - scores)
    return np.asarray(-np.log(np.clip(given, FLOOR, 1)))


def _square(scores: Array, target: Array) -> Array:
    return np.asarray((scores - target) ** 2)


def _distance(scores: Array, target: Array) -> Array:
    return np.asarray(np.abs(scores - target))


def _ece(scores: Array, target: Array, weights: Array) -> Array:
    """Expected calibration error: |mean score - rate| over ten equal bins, weighted by their rows."""
    place = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.where(place[:, None] == np.arange(CALIBRATION_BINS), (scores - target)[:, None], 0.0)
    return np.asarray(np.abs(weights @ gaps).sum(1) / weights.sum(1))


def _r2(scores: Array, target: Array, weights: Array) -> Array:
    """1 - squared error / spread; not defined where all targets are alike."""
    y = target - target.mean()
    total = weights.sum(1)
    spread = (weights * (y - (weights @ y / total)[:, None]) ** 2).sum(1)
    # What rounding leaves of no spread is no spread.
    alike = spread <= 1e-24 * (weights @ y**2)
    return np.where(alike, np.nan, 1 - weights @ _square(scores, target) / spread)


def _smaller(name: str, label: str, rule: Callable[[Array, Array], Array], *kinds: str) -> Metric:
    return Metric(name=name, label=label, better="lower", kinds=kinds, weighted=by_row(rule))  # type: ignore[arg-type]


AUC = Metric(name="auc", label="AUC", better="higher", kinds=("binary",), weighted=_auc)
AUPRC = Metric(name="auprc", label="AUPRC", better="higher", kinds=("binary",), weighted=_auprc)
ACCURACY = Metric(
    name="accuracy", label="accuracy", better="higher", kinds=("binary", "multiclass"), weighted=by_row(_right)
)
BRIER = _smaller("brier", "Brier score", _square, "binary")
ECE = Metric(name="ece", label="ECE", better="lower", kinds=("binary",), weighted=_ece)
LOG_LOSS = _smaller("log_loss", "log loss", _surprise, "binary", "multiclass")
MACRO_AUC = Metric(name="macro_auc", label="macro AUC", better="higher", kinds=("multiclass",), weighted=_macro_auc)
RMSE = Metric(name="rmse", label="RMSE", better="lower", kinds=("regression",), weighted=by_row(_square, np.sqrt))
MAE = _smaller("mae", "MAE", _distance, "regression")
R2 = Metric(name="r2", label="R²", better="higher", kinds=("regression",), weighted=_r2)
