"""Finds metrics by name: the built-in ones below, and those of installed packages.

A package names its metric in the group `consortia.metrics`:

    [project.entry-points."consortia.metrics"]
    f1 = "partner_package.f1:METRIC"

Names and labels cost no library: numpy is imported with the first metric that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from clients.errors import MetricError
from consortia_plugins import Seam

if TYPE_CHECKING:
    from clients.metrics.metric import Metric

__all__ = ["GROUP", "NAMES", "get", "label", "names", "of_kind", "sign"]

GROUP: Final = "consortia.metrics"
_BUILT_IN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "auc": "clients.metrics.built_in:AUC",
        "auprc": "clients.metrics.built_in:AUPRC",
        "accuracy": "clients.metrics.built_in:ACCURACY",
        "balanced_accuracy": "clients.metrics.built_in:BALANCED_ACCURACY",
        "brier": "clients.metrics.built_in:BRIER",
        "ece": "clients.metrics.built_in:ECE",
        "log_loss": "clients.metrics.built_in:LOG_LOSS",
        "macro_auc": "clients.metrics.built_in:MACRO_AUC",
        "macro_f1": "clients.metrics.built_in:MACRO_F1",
        "label_auc": "clients.metrics.labels:AUC",
        "label_auprc": "clients.metrics.labels:AUPRC",
        "label_accuracy": "clients.metrics.labels:ACCURACY",
        "label_brier": "clients.metrics.labels:BRIER",
        "rmse": "clients.metrics.built_in:RMSE",
        "mae": "clients.metrics.built_in:MAE",
        "r2": "clients.metrics.built_in:R2",
        "concordance": "clients.metrics.built_in:CONCORDANCE",
        "recall_at_10": "clients.metrics.ranking:RECALL",
        "ndcg_at_10": "clients.metrics.ranking:NDCG",
        # `consortia new metric` adds its line above this one.
    }
)
#: The built-in ones.
NAMES: Final = tuple(_BUILT_IN)


def names() -> tuple[str, ...]:
    """Every known metric, built in or installed; nothing is imported for it."""
    return _metrics.names()


def get(name: str, where: str = "") -> Metric:
    """The metric of that name.

    Parameters
    ----------
    where : str
        The parameter in the sentence about an unknown name.

    Raises
    ------
    MetricError
        There is none, or the package that brings it is broken; the message names the package.
    """
    return _metrics.get(name, where)


def of_kind(name: str, kind: str, where: str = "") -> Metric:
    """The metric of that name, which measures targets of that kind.

    Parameters
    ----------
    kind : str
        "binary", "multiclass", "multilabel", "regression" or "anomaly".

    Raises
    ------
    MetricError
        There is none, its package is broken, or it measures other targets.
    """
    metric = get(name, where)
    if kind not in metric.kinds:
        fit = ", ".join(one for one in NAMES if kind in get(one).kinds)
        raise MetricError(
            f"{where or 'metric'}: wanted a metric of {kind} targets, such as {fit}, got {name!r}, which is for "
            f"{' and '.join(metric.kinds)} ones"
        )
    return metric


def label(name: str) -> str:
    """What people read for a metric of a record; the name itself where nobody here knows that metric any more."""
    try:
        return get(name).label if name else ""
    except MetricError:
        return name


def sign(name: str) -> int:
    """1 where higher is better, else -1; 1, too, where nobody here knows that metric any more."""
    try:
        return get(name).sign if name else 1
    except MetricError:
        return 1


def _check(name: str, found: Any) -> Metric:
    from clients.metrics.metric import Metric

    if not isinstance(found, Metric):
        raise ValueError(f"wanted a clients.metrics.Metric, got {type(found).__name__}")
    if found.name != name:
        raise ValueError(f"wanted a Metric of that name, got one named {found.name!r}")
    return found


_metrics = Seam(GROUP, "metric", _check, built_in=lambda: _BUILT_IN, unknown=MetricError, broken=MetricError)
