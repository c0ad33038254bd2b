"""Measurements at home: scores, the receipt's first metric, intervals of a gain."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clients import metrics, registry
from clients._labels import bits
from clients.dataset import Table
from clients.industry import IndustryClient
from clients.metrics import Interval, compute
from clients.models import FederatedModule, predict
from consortia.participant.own_model import OwnModel, Scorer
from consortia.terms.policy import DatasetTerms
from privacy.randomness import numpy_generator

#: A model has diverged if its mean loss is so many times the loss of a constant.
_FAR = 2.0
Scores = NDArray[np.float64]
Metrics = dict[str, float | None]


def client_for(terms: DatasetTerms) -> IndustryClient:
    """Return a data set's industry. The metrics that the owner wants come first.

    Raises
    ------
    MetricError
        A metric is unknown, or does not fit the industry's target.
    """
    return registry.get(terms.industry).measuring(terms.metrics, "dataset.metrics")


def headline(client: IndustryClient, measured: NDArray[Any] | torch.Tensor) -> str:
    """Return the receipt's first metric: the first metric of the industry that is defined on these rows.

    For example, one class alone has no AUC. A metric is defined if it has a value for perfect scores.
    `measured` is `Table.measured`, or a target alone.
    """
    rows = np.asarray(measured, dtype=np.float64)
    y = rows[:, 0] if rows.ndim == 2 else rows
    kind = client.schema.target.kind
    labels = client.schema.target.outputs
    perfect = np.eye(labels)[y.astype(int)] if kind == "multiclass" else bits(y, labels) if kind == "multilabel" else y
    defined = (name for name in client.metrics if metrics.of_kind(name, kind).value(perfect, rows) is not None)
    return next(defined, client.metrics[0])


def row_losses(client: IndustryClient, scores: Scores, table: Table) -> Scores:
    """Return a proper score of each row (n_rows,): log loss in nats (its mean over labels), or the squared error.

    Probabilities are clipped to .005 and .995, so that no single row decides.
    """
    wanted = np.asarray(table.target)
    if client.schema.target.kind == "regression":
        return np.asarray((scores - wanted) ** 2, dtype=np.float64)
    bounded = np.clip(scores, 0.005, 0.995)
    if client.schema.target.kind == "multiclass":
        return np.asarray(-np.log(bounded[np.arange(len(wanted)), wanted.astype(int)]), dtype=np.float64)
    if client.schema.target.kind == "multilabel":
        there = bits(wanted, client.schema.target.outputs)
        return np.asarray(-np.log(np.where(there == 1, bounded, 1 - bounded)).mean(1), dtype=np.float64)
    return np.asarray(-np.log(np.where(wanted == 1, bounded, 1 - bounded)), dtype=np.float64)


def far_worse(client: IndustryClient, scores: Scores, constant: Scores, table: Table) -> dict[str, float] | None:
    """Return the mean losses of a model and of a constant if the model's is at least twice as large; otherwise None.

    Data alone do not make a trained model so bad: its steps or its noise were too large.
    """
    if not len(table.target) or client.schema.target.kind == "anomaly":  # an anomaly's score is held to no scale
        return None
    own, least = (float(row_losses(client, each, table).mean()) for each in (scores, constant))
    return None if own < _FAR * least else {"model": own, "constant": least}


def better(metric: str, left: float | None, right: float | None) -> bool:
    """Return whether `left` is strictly better than `right` in `metric`; None is never better."""
    if left is None:
        return False
    if right is None:
        return True
    return metrics.get(metric).sign * (left - right) > 0


def module_scorer(module: FederatedModule) -> Scorer:
    """Return a function from a table to scores, `(n_rows,)` or `(n_rows, n_classes)`."""
    return Scorer(
        lambda table: np.asarray(predict(module, table.inputs), dtype=np.float64),
        lambda: OwnModel(module.target, module),
    )


def score_metrics(client: IndustryClient, scores: Scores, table: Table) -> Metrics:
    """Return every metric of the industry on one table; None for an undefined one."""
    return compute(client.metrics, client.schema.target.kind, scores, table.measured, table.unit_index)


def gain_interval(metric: str, federated: Scores, local: Scores, table: Table, participant: str) -> Interval | None:
    """Return the gain of `federated` over `local` in `metric`; None if undefined.

    Positive is better in every metric. Each metric defines its interval over the units of the rows (most use
    `clients.metrics.paired_bootstrap`).
    """
    generator = numpy_generator("bootstrap", participant)
    return metrics.get(metric).gain(federated, local, table.measured, table.unit_index, generator)
