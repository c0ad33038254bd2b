"""Metrics: what a model is worth on rows, as a number, or None where it is not defined."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clients.metric_registry import get, label, names, of_kind, sign
from clients.metrics.metric import MINIMUM_UNITS, Interval, Metric, by_row, by_sample, paired_bootstrap

__all__ = [
    "MINIMUM_UNITS",
    "Interval",
    "Metric",
    "by_row",
    "by_sample",
    "compute",
    "get",
    "label",
    "names",
    "of_kind",
    "paired_bootstrap",
    "sign",
]


def compute(metrics: Iterable[str], kind: str, scores: Any, target: Any, units: Any = None) -> dict[str, float | None]:
    """Every named metric of these rows.

    Parameters
    ----------
    metrics : iterable of str
        Names of metrics for targets of that kind; MetricError otherwise.
    scores : array (n,) or (n, classes or labels)
        What `clients.models.predict` gives.
    target : array (n,) or (n, 2)
        0/1, codes of classes or labels, or values; with strata beside it as `clients.dataset.Table.measured` gives it.
    units : array (n,), optional
        Whose each row is, for metrics by unit.
    """
    return {name: of_kind(name, kind).value(scores, target, units) for name in metrics}
