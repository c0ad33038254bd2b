"""Defines the built-in metrics, in plain numpy.

A site may hold one class only (Switzerland's training rows are all positive): its AUC is not defined, which is no
exception. The values agree with scikit-learn's, weighted ones too (tests/clients/test_metrics.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clients.metrics.metric import Metric, by_row

__all__ = [
    "ACCURACY",
    "AUC",
    "AUPRC",
    "BALANCED_ACCURACY",
    "BRIER",
    "CONCORDANCE",
    "ECE",
    "LOG_LOSS",
    "MACRO_AUC",
    "MACRO_F1",
    "MAE",
    "R2",
    "RMSE",
]

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


def _by_class(scores: Array, target: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Return by class how many rows there are, how many are called so, and how many rightly: each (m, n_classes)."""
    called = scores.argmax(axis=1) if scores.ndim == 2 else scores >= 0.5
    classes = np.arange(scores.shape[1] if scores.ndim == 2 else 2)
    there, said = (np.asarray(codes[:, None] == classes, dtype=np.float64) for codes in (target, called))
    return weights @ there, weights @ said, weights @ (there * said)


def _balanced_accuracy(scores: Array, target: Array, weights: Array) -> Array:
    """Mean share of the rows of a class that are called so, over the classes there are; one class has none."""
    there, _, right = _by_class(scores, target, weights)
    present = there > 0
    recall = np.divide(right, there, out=np.zeros_like(right), where=present)
    return np.where(present.sum(1) > 1, recall.sum(1) / present.sum(1), np.nan)


def _macro_f1(scores: Array, target: Array, weights: Array) -> Array:
    """Mean F1 of the classes that are there or that a row is called."""
    there, said, right = _by_class(scores, target, weights)
    known = there + said > 0
    each = np.divide(2 * right, there + said, out=np.zeros_like(right), where=known)
    return np.asarray(each.sum(1) / known.sum(1))


def _concordance(scores: Array, target: Array, weights: Array) -> Array:
    """Share of the pairs of different values that the scores put in order, ties at one half (Harrell et al. 1982).

    With strata (target (n, 2)) only pairs within one count. Where rows are the intervals that persons are at risk in,
    and the stratum is the interval, a pair is one who has the event and one who is seen to have none by then: those of
    Harrell's index of censored times, told in intervals.

    Two rows whose scores have ranks a < b differ in a highest bit. At the turn of that bit, and at no other, both are
    among the rows of equal higher bits, and b is on the upper side: so n log n steps count all pairs.
    """
    strata = target[:, 1] if target.ndim == 2 else np.zeros(len(target))
    stratum = np.unique(strata, return_inverse=True)[1].reshape(-1)
    rank = np.unique(scores, return_inverse=True)[1].reshape(-1)
    value = np.unique(target[:, 0] if target.ndim == 2 else target, return_inverse=True)[1].reshape(-1)
    cell = stratum * (int(value.max()) + 1) + value
    comparable = (_squares(weights, stratum) - _squares(weights, cell)) / 2
    balance = np.zeros(len(weights))
    bits = int(rank.max()).bit_length()
    rank = (stratum << bits) | rank  # no turn of a lower bit compares two strata
    for bit in range(bits):
        among = rank >> (bit + 1)
        order = np.lexsort((value, among))
        w, pool, y = weights[:, order], among[order], value[order]
        upper = (rank[order] >> bit) & 1
        lower = np.pad(np.cumsum(w * (1 - upper), axis=1), ((0, 0), (1, 0)))
        new_pool = np.r_[True, pool[1:] != pool[:-1]]
        starts, ends = _runs(new_pool)
        first, last = _runs(new_pool | np.r_[True, y[1:] != y[:-1]])
        below, above = lower[:, first] - lower[:, starts], lower[:, ends] - lower[:, last]
        balance += (w * upper * (below - above)).sum(1)
    return np.where(comparable > 0, (1 + balance / comparable) / 2, np.nan)


def _squares(weights: Array, group: NDArray[np.int64]) -> Array:
    """Return for each sample (m,) the sum over groups of their squared weight."""
    total = np.zeros((len(weights), int(group.max()) + 1))
    np.add.at(total.T, group, weights.T)
    return np.asarray((total**2).sum(1))


def _runs(begins: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each place where its run starts, and where the next one does."""
    starts = np.flatnonzero(begins)
    run = np.cumsum(begins) - 1
    return starts[run], np.r_[starts[1:], len(begins)][run]


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
    # So small a spread is rounding: there is none.
    alike = spread <= 1e-24 * (weights @ y**2)
    return np.where(alike, np.nan, 1 - weights @ _square(scores, target) / spread)


def _smaller(name: str, label: str, rule: Callable[[Array, Array], Array], *kinds: str) -> Metric:
    return Metric(name=name, label=label, better="lower", kinds=kinds, weighted=by_row(rule))  # type: ignore[arg-type]


AUC = Metric(name="auc", label="AUC", better="higher", kinds=("binary", "anomaly"), weighted=_auc)
AUPRC = Metric(name="auprc", label="AUPRC", better="higher", kinds=("binary", "anomaly"), weighted=_auprc)
ACCURACY = Metric(
    name="accuracy", label="accuracy", better="higher", kinds=("binary", "multiclass"), weighted=by_row(_right)
)
BALANCED_ACCURACY = Metric(
    name="balanced_accuracy",
    label="balanced accuracy",
    better="higher",
    kinds=("binary", "multiclass"),
    weighted=_balanced_accuracy,
)
BRIER = _smaller("brier", "Brier score", _square, "binary")
ECE = Metric(name="ece", label="ECE", better="lower", kinds=("binary",), weighted=_ece)
LOG_LOSS = _smaller("log_loss", "log loss", _surprise, "binary", "multiclass")
MACRO_AUC = Metric(name="macro_auc", label="macro AUC", better="higher", kinds=("multiclass",), weighted=_macro_auc)
MACRO_F1 = Metric(
    name="macro_f1", label="macro F1", better="higher", kinds=("binary", "multiclass"), weighted=_macro_f1
)
RMSE = Metric(name="rmse", label="RMSE", better="lower", kinds=("regression",), weighted=by_row(_square, np.sqrt))
MAE = _smaller("mae", "MAE", _distance, "regression")
R2 = Metric(name="r2", label="R²", better="higher", kinds=("regression",), weighted=_r2)
CONCORDANCE = Metric(
    name="concordance",
    label="concordance",
    better="higher",
    kinds=("regression", "binary"),
    weighted=_concordance,
    within=True,
)
