"""Finds the cell of a released histogram for a row, by public edges.

* binary, anomaly: class by score bin. Edges are equally spaced in the log-odds: scores of a rare class crowd near 0.
* multiclass: whether the most probable class is right, by that probability.
* regression: the absolute error as a share of the target's public range; edges are denser near 0.
* multilabel: the mean over labels of the squared error of a row's probabilities: one cell a row, whatever its labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clients._labels import bits as label_bits
from clients.schema import Target

#: Name of the tensor that leaves: int64 counts, shape (rows, bins).
HISTOGRAM = "metrics.histogram"
#: Log-odds beyond which a score lies in the first or last bin.
_WIDEST = 6.0
#: Kinds of targets of two classes with one score.
TWO = ("binary", "anomaly")
Array = NDArray[np.float64]


def has_bins(target: Target) -> bool:
    """Return whether a target can be put into bins: a regression target needs public bounds."""
    return target.kind != "regression" or (target.low is not None and target.high is not None)


def n_rows(target: Target) -> int:
    """Return how many histograms there are: one per class (wrong, right), or one of errors."""
    return 1 if target.kind in {"regression", "multilabel"} else 2


def edges(target: Target, bins: int) -> Array:
    """Return the public edges of the score, shape (bins + 1,)."""
    if target.kind in TWO:
        inner = 1 / (1 + np.exp(-np.linspace(-_WIDEST, _WIDEST, bins - 1)))
        return np.concatenate([[0.0], inner, [1.0]])
    if target.kind == "multiclass":
        return np.linspace(1 / len(target.classes), 1.0, bins + 1)
    return np.linspace(0.0, 1.0, bins + 1) ** 2


def centres(target: Target, bins: int) -> Array:
    """Return the score that stands for each bin, shape (bins,)."""
    if target.kind in TWO:
        width = 2 * _WIDEST / (bins - 2)
        return np.asarray(1 / (1 + np.exp(-np.linspace(-_WIDEST - width / 2, _WIDEST + width / 2, bins))))
    found = edges(target, bins)
    return np.asarray((found[1:] + found[:-1]) / 2)


def cells(target: Target, scores: Array, labels: Array, bins: int) -> NDArray[np.int64]:
    """Return the cell of each row: class x bins + bin, shape (n_rows,).

    A score that is no finite number goes into the first bin: it must not show as a missing row or an error. Scores of
    another shape are a ValueError: broadcast against the labels, they would give each row all others.
    """
    labels = np.asarray(labels, dtype=np.float64)
    if target.kind in TWO:
        value, row = np.asarray(scores, dtype=np.float64), (labels == 1).astype(np.int64)
    elif target.kind == "multiclass":
        table = np.nan_to_num(np.asarray(scores, dtype=np.float64).reshape(len(labels), len(target.classes)))
        value, row = table.max(axis=1, initial=0.0), (table.argmax(axis=1) == labels).astype(np.int64)
    elif target.kind == "multilabel":
        table = np.nan_to_num(np.asarray(scores, dtype=np.float64).reshape(len(labels), target.outputs))
        value = np.square(table - label_bits(labels, target.outputs)).mean(axis=1)
        row = np.zeros(len(labels), dtype=np.int64)
    else:
        if target.low is None or target.high is None:
            raise ValueError(f"target {target.name}: wanted public bounds low and high, got none")
        value = np.abs(np.asarray(scores, dtype=np.float64) - labels) / (target.high - target.low)
        row = np.zeros(len(labels), dtype=np.int64)
    if value.shape != (len(labels),):
        raise ValueError(f"scores: wanted one a row, shape ({len(labels)},), got {value.shape}")
    place = np.searchsorted(edges(target, bins)[1:-1], np.nan_to_num(value), side="right")
    return np.asarray(row * bins + place, dtype=np.int64)
