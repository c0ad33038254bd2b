"""Metrics of a ranking: are the items that a user likes among the first ten of those that it rated?

A user likes what it rated above its own mean. Its test rows are ranked, and nothing else: an item that it never rated
has no truth. A user of ten rows or fewer, or of equal ratings, ranks nothing and is left out. Ties count as the mean of
all orders. Both agree with scikit-learn's where it has them (tests/clients/test_ranking.py).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clients.metrics.metric import Metric, Weighted, by_sample

__all__ = ["NDCG", "RECALL"]

Array = NDArray[np.float64]
FIRST = 10


def _found(scores: Array, liked: NDArray[np.bool_], worth: Array) -> float:
    """Return what the liked items are worth at their places; `worth` (n_rows,) of the first place, the second …"""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    sizes = np.diff(np.r_[starts, len(scores)])
    tied = np.add.reduceat(liked[order].astype(np.float64), starts)
    return float((np.add.reduceat(worth, starts) / sizes) @ tied)


def _ranked(worth: Array, *, ideal: bool) -> Weighted:
    """Make a metric of one unit's rows: over the best that any order has, or over the number of liked items."""

    def one(scores: Array, target: Array, weights: Array) -> float | None:
        del weights  # within one unit each row is there once
        liked = target > target.mean()
        if len(target) <= FIRST or not liked.any():
            return None
        places = np.pad(worth, (0, len(target) - FIRST))
        return _found(scores, liked, places) / (float(worth[: liked.sum()].sum()) if ideal else float(liked.sum()))

    return by_sample(one)


RECALL = Metric(
    name="recall_at_10",
    label="recall@10",
    better="higher",
    kinds=("regression",),
    weighted=_ranked(np.ones(FIRST), ideal=False),
    by_unit=True,
)
NDCG = Metric(
    name="ndcg_at_10",
    label="NDCG@10",
    better="higher",
    kinds=("regression",),
    weighted=_ranked(1 / np.log2(np.arange(2, FIRST + 2)), ideal=True),
    by_unit=True,
)
