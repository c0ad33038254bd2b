"""Validates metrics that participants released."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients import registry
from clients.schema import Target
from consortia.metrics import score_bins
from consortia.metrics.from_histograms import CalibrationPoint, Estimate, calibration, from_histogram
from consortia.terms.contract import Contract
from consortia.terms.scopes import State
from privacy.egress import KINDS
from privacy.histogram import HistogramNoise

#: Largest count that an honest participant can send.
_MOST_ROWS = 10**12


@dataclass(frozen=True)
class Received:
    """What one participant released about one model.

    Attributes
    ----------
    partition : str
        "evaluation" (test rows, the final model) or "validation" (a model between rounds).
    estimates : dict of str to Estimate
        Values with intervals. Exact values have no interval.
    histogram : array (n_lines, n_bins) or None
        The released histogram; None if the metrics left exactly.
    deviation : float
        Standard deviation of the noise in one cell of it.
    groups : dict or None
        The histogram by group, where the contract asks for it: names, counts, the noise in one of their cells.
    """

    industry: str
    partition: str
    estimates: dict[str, Estimate]
    curve: list[CalibrationPoint]
    histogram: NDArray[np.float64] | None
    deviation: float
    rows_per_unit: int
    account: dict[str, Any]
    groups: dict[str, Any] | None = None

    @property
    def exact(self) -> bool:
        """Whether the metrics left without noise."""
        return self.histogram is None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {
            "partition": self.partition,
            "exact": self.exact,
            "account": self.account,
            "estimates": {name: asdict(estimate) for name, estimate in self.estimates.items()},
            "calibration": [asdict(point) for point in self.curve],
            **({} if self.groups is None else {"groups": self.groups}),
        }


def split(tensors: State) -> tuple[State, State]:
    """Return the parameters and the metrics of a reply."""
    prefix = KINDS["metrics"].prefix
    metrics = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return {name: tensor for name, tensor in tensors.items() if name not in metrics}, metrics


def read(
    header: Mapping[str, str], metrics: State, contract: Contract, industry: str, partition: str | None
) -> Received | None:
    """Check the metrics of a reply against the expected ones and return them; None if none are expected.

    Raises
    ------
    ValueError
        The metrics were not requested, are missing, or have another kind than the contract says.
    """
    if partition is None:
        if metrics:
            raise ValueError("metrics: the contract releases none with this message")
        return None
    if header.get("metrics_partition") != partition:
        raise ValueError(f"metrics_partition: wanted {partition!r}, got {header.get('metrics_partition', '')[:20]!r}")
    if contract.evaluation.metrics == "exact":
        return _exact(header, metrics, industry, partition)
    schema = registry.get(industry).schema
    target = schema.target
    grouping = contract.evaluation.grouping(industry) if partition == "evaluation" else None
    names = () if grouping is None else grouping.names(schema)
    counts = _histogram(metrics, target, contract.evaluation.bins, len(names))
    noise, rows_per_unit, account = _account(header)
    deviation = noise.deviation(rows_per_unit)
    groups = None
    if grouping is not None:
        groups = {
            "column": grouping.column,
            "names": list(names),
            "counts": counts.astype(int).tolist(),
            "deviation": deviation,
            "rows_per_unit": rows_per_unit,
        }
        counts, deviation = counts.sum(0), deviation * math.sqrt(len(names))
    return Received(
        industry,
        partition,
        from_histogram(target, counts, deviation, rows_per_unit),
        calibration(target, counts, deviation, rows_per_unit),
        counts,
        deviation,
        rows_per_unit,
        account,
        groups,
    )


def _exact(header: Mapping[str, str], metrics: Mapping[str, Tensor], industry: str, partition: str) -> Received:
    if header.get("metrics_non_private") != "true":
        raise ValueError("metrics_non_private: wanted 'true' with exact metrics")
    known = registry.get(industry).metrics
    estimates = {}
    for full, value in metrics.items():
        name = full.removeprefix(KINDS["metrics"].prefix)
        if name not in known:
            raise ValueError(f"metrics.{name[:40]}: wanted one of {', '.join(known)}")
        if value.numel() != 1 or not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise ValueError(f"metrics.{name}: wanted one finite number")
        number = float(value.item())
        estimates[name] = Estimate(number, number, number)
    account = {"epsilon": None, "delta": None, "mechanism": "none", "multiplier": None}
    return Received(industry, partition, estimates, [], None, 0.0, 1, account)


def _histogram(metrics: Mapping[str, Tensor], target: Target, bins: int, n_groups: int) -> NDArray[np.float64]:
    wanted = (*((n_groups,) if n_groups else ()), score_bins.n_rows(target), bins)
    if set(metrics) != {score_bins.HISTOGRAM}:
        raise ValueError(f"metrics: wanted {score_bins.HISTOGRAM} and nothing else")
    counts = metrics[score_bins.HISTOGRAM]
    if counts.dtype != torch.int64 or tuple(counts.shape) != wanted:
        raise ValueError(f"{score_bins.HISTOGRAM}: wanted int64 {wanted}, got {counts.dtype} {tuple(counts.shape)}")
    if bool((counts.abs() > _MOST_ROWS).any()):
        raise ValueError(f"{score_bins.HISTOGRAM}: wanted counts up to {_MOST_ROWS}")
    return np.asarray(counts.numpy(), dtype=np.float64)


def _account(header: Mapping[str, str]) -> tuple[HistogramNoise, int, dict[str, Any]]:
    try:
        mechanism = header["metrics_mechanism"]
        multiplier, epsilon, delta = (float(header[f"metrics_{key}"]) for key in ("multiplier", "epsilon", "delta"))
        rows = int(header["metrics_rows_per_unit"])
    except (KeyError, ValueError):
        raise ValueError("metrics: wanted their mechanism, multiplier, rows per unit, epsilon and delta") from None
    sane = all(math.isfinite(x) and x > 0 for x in (multiplier, epsilon, delta)) and 1 <= rows <= 10**6
    if header.get("metrics_non_private") != "false" or not sane:
        raise ValueError("metrics: wanted noise, a budget and rows per unit that are finite and > 0")
    account = {"epsilon": epsilon, "delta": delta, "mechanism": mechanism, "multiplier": multiplier}
    if mechanism == "laplace":
        return HistogramNoise("laplace", multiplier), rows, account
    if mechanism == "gaussian":
        return HistogramNoise("gaussian", multiplier), rows, account
    raise ValueError(f"metrics_mechanism: wanted laplace or gaussian, got {mechanism[:20]!r}")
