"""Metrics of several labels: each label by itself, then the mean over labels.

A label that is in all rows of a sample, or in none, has no AUC and no average precision there: the mean is over the
other labels. Where no label has a value, the metric has none.
"""

from __future__ import annotations

import numpy as np

from clients._labels import bits
from clients.metrics.built_in import AUC as ONE_AUC
from clients.metrics.built_in import AUPRC as ONE_AUPRC
from clients.metrics.metric import Array, Metric, Weighted, by_row

__all__ = ["ACCURACY", "AUC", "AUPRC", "BRIER"]


def _macro(one: Weighted) -> Weighted:
    """Return the mean over labels of a metric of two classes, label by label."""

    def weighted(scores: Array, target: Array, weights: Array) -> Array:
        there = bits(target, scores.shape[1])
        each = np.stack([one(scores[:, label], there[:, label], weights) for label in range(scores.shape[1])])
        known = np.isfinite(each)
        return np.asarray(np.where(known, each, 0.0).sum(0) / known.sum(0))

    return weighted


def _right(scores: Array, target: Array) -> Array:
    return np.asarray(((scores >= 0.5) == bits(target, scores.shape[1])).mean(1))


def _square(scores: Array, target: Array) -> Array:
    return np.asarray(np.square(scores - bits(target, scores.shape[1])).mean(1))


AUC = Metric(
    name="label_auc",
    label="macro AUC of labels",
    better="higher",
    kinds=("multilabel",),
    weighted=_macro(ONE_AUC.weighted),
)
AUPRC = Metric(
    name="label_auprc",
    label="macro AUPRC of labels",
    better="higher",
    kinds=("multilabel",),
    weighted=_macro(ONE_AUPRC.weighted),
)
ACCURACY = Metric(
    name="label_accuracy", label="accuracy of labels", better="higher", kinds=("multilabel",), weighted=by_row(_right)
)
BRIER = Metric(
    name="label_brier",
    label="Brier score of labels",
    better="lower",
    kinds=("multilabel",),
    weighted=by_row(_square),
)
