"""Stops a run early by released metrics, one round late. It reads no row and costs no additional budget."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from clients import metrics, registry
from consortia.coordinator.received_metrics import Received
from consortia.metrics.from_histograms import from_histogram
from consortia.terms.evaluation import StoppingTerms

#: The sum must have so many positives before its metric counts for stopping. `patience` covers the error of the metric.
_MINIMUM = 20


def watched(terms: StoppingTerms, received: Iterable[Received]) -> float | None:
    """Return the metric that decides, computed from the participants' releases about one model.

    Histograms of one industry are added, together with their noise. The sum can have enough positives even if no single
    participant has. Exact metrics and several industries are averaged. None if the releases give no value.
    """
    by_industry: dict[str, list[Received]] = {}
    for one in received:
        by_industry.setdefault(one.industry, []).append(one)
    values = []
    for industry, group in sorted(by_industry.items()):
        noisy = [(one, one.histogram) for one in group if one.histogram is not None]
        exact = [one.estimates[terms.metric].value for one in group if one.exact and terms.metric in one.estimates]
        values += [value for value in exact if value is not None]
        if noisy:
            pooled = np.sum([histogram for _, histogram in noisy], axis=0)
            deviation = math.sqrt(sum(one.deviation**2 for one, _ in noisy))
            target = registry.get(industry).schema.target
            most = max(one.rows_per_unit for one, _ in noisy)
            estimate = from_histogram(target, pooled, deviation, most, _MINIMUM).get(terms.metric)
            if estimate is not None and estimate.value is not None:
                values.append(estimate.value)
    return statistics.fmean(values) if values else None


def should_stop(terms: StoppingTerms, values: Sequence[float | None]) -> bool:
    """Return whether the last `patience` values are no better than the best before them by `min_delta`.

    Parameters
    ----------
    values : sequence of float or None
        One value for each release, oldest first. None is left out.
    """
    sign = metrics.get(terms.metric).sign
    known = [sign * value for value in values if value is not None]
    if len(known) <= terms.patience:
        return False
    return max(known[-terms.patience :]) < max(known[: -terms.patience]) + max(terms.min_delta, 1e-12)


def stopped(terms: StoppingTerms | None, history: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the run should stop after these rounds."""
    return terms is not None and should_stop(terms, [line["watched"] for line in history if "watched" in line])
