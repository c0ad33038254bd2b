"""What a participant measures at home: scores, the metric that counts, intervals of a gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from clients.dataset import Table
from clients.industry import IndustryClient
from clients.metrics import HIGHER_IS_BETTER, by_row, compute, names
from clients.models import FederatedModule, predict
from consortia.participant.own_model import OwnModel, Scorer
from privacy.randomness import numpy_generator

Scores = NDArray[np.float64]
Metrics = dict[str, float | None]

_BOOTSTRAP = 500
_RESAMPLED = 200  # of metrics that are computed anew from each sample's rows
#: Units that a 95 % interval needs; with fewer there is none.
MINIMUM_UNITS = 10


class FederatedScore(Protocol):
    """What a learner gives of its federated model: a score for each row, at home.

    Networks give a `Scorer`; any learner's model that comes to a participant can stand in a stack through this.
    """

    def score(self, table: Table) -> Scores:
        """Return probabilities (n_rows,) or (n_rows, n_classes), or values of a regression (n_rows,)."""


@runtime_checkable
class CrossFitted(Protocol):
    """A federated score that uses the participant's own rows at home, too, and so has to be held out from them."""

    def out_of_fold(self, table: Table, fold: NDArray[np.int64]) -> Scores:
        """Return scores as `FederatedScore.score`; those of a fold from a model that did not use the fold's own rows.

        Parameters
        ----------
        table : Table
            Training rows.
        fold : array (n_rows,)
            The number of each row's fold.
        """


def headline(client: IndustryClient, target: torch.Tensor) -> str:
    """Return the metric that a receipt leads with: AUC where both classes are there, else accuracy."""
    kind = client.schema.target.kind
    if kind == "regression":
        return "rmse"
    if kind == "multiclass":
        return "accuracy"
    return "auc" if len(torch.unique(target)) == 2 else "accuracy"


def row_losses(client: IndustryClient, scores: Scores, table: Table) -> Scores:
    """Return a proper score of each row (n_rows,): log loss in nats, or the squared error of a regression.

    Probabilities are taken to lie between .005 and .995, so that no single row decides.
    """
    wanted = np.asarray(table.target)
    if client.schema.target.kind == "regression":
        return np.asarray((scores - wanted) ** 2, dtype=np.float64)
    bounded = np.clip(scores, 0.005, 0.995)
    if client.schema.target.kind == "multiclass":
        return np.asarray(-np.log(bounded[np.arange(len(wanted)), wanted.astype(int)]), dtype=np.float64)
    return np.asarray(-np.log(np.where(wanted == 1, bounded, 1 - bounded)), dtype=np.float64)


def better(metric: str, left: float | None, right: float | None) -> bool:
    """Return whether `left` is strictly better than `right` in `metric`; None is never better."""
    if left is None:
        return False
    if right is None:
        return True
    return left > right if HIGHER_IS_BETTER[metric] else left < right


def module_scorer(module: FederatedModule) -> Scorer:
    """Return a function from a table to scores, `(n_rows,)` or `(n_rows, n_classes)`."""
    return Scorer(
        lambda table: np.asarray(predict(module, table.inputs), dtype=np.float64),
        lambda: OwnModel(module.target, module),
    )


def score_metrics(client: IndustryClient, scores: Scores, table: Table) -> Metrics:
    """Return every metric of the industry on one table; None where it is undefined."""
    return compute(client.metrics, client.schema.target.kind, scores, np.asarray(table.target))


@dataclass(frozen=True)
class Interval:
    """A 95 % paired bootstrap interval over the units of the test rows."""

    value: float
    low: float
    high: float


def gain_interval(metric: str, federated: Scores, local: Scores, table: Table, participant: str) -> Interval | None:
    """Return what `federated` gains over `local` in `metric`, or None where undefined.

    Positive is better for every metric: the difference of a metric whose lower values are better is turned. Units, not
    rows, are resampled (500 times), the same for both models. Fewer than `MINIMUM_UNITS` give no interval:
    resampling one unit 500 times gives one number 500 times, whatever the truth is.
    """
    target = np.asarray(table.target, dtype=np.float64)
    if table.n_units < MINIMUM_UNITS or metric not in HIGHER_IS_BETTER:
        return None
    rng = numpy_generator("bootstrap", participant)
    draws = rng.multinomial(table.n_units, np.full(table.n_units, 1 / table.n_units), size=_BOOTSTRAP)
    weights = np.vstack([np.ones(table.n_units), draws])[:, np.asarray(table.unit_index)]
    if metric == "auc" and federated.ndim == 1:
        difference = weighted_auc(federated, target, weights) - weighted_auc(local, target, weights)
    else:
        difference = (1 if HIGHER_IS_BETTER[metric] else -1) * _differences(metric, federated, local, target, weights)
    if not np.isfinite(difference[0]):
        return None
    resampled = difference[1:][np.isfinite(difference[1:])]
    if len(resampled) < (len(difference) - 1) // 2:
        return None
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(difference[0]), float(low), float(high))


def _differences(
    metric: str, federated: Scores, local: Scores, target: Scores, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return federated less local under each row of `weights`; NaN where the metric is not defined for one of them.

    A metric that is no mean over rows is computed anew from each of fewer samples.
    """
    candidates = ("multiclass",) if federated.ndim == 2 else ("binary", "regression")
    kind = next(kind for kind in candidates if metric in names(kind))
    parts = [by_row(metric, kind, scores, target) for scores in (federated, local)]
    if parts[0] is not None and parts[1] is not None:
        means = weights @ np.column_stack([parts[0], parts[1]]) / np.maximum(weights.sum(1), 1)[:, None]
        joined, alone = (np.sqrt(means) if metric == "rmse" else means).T
        return np.asarray(joined - alone)

    def value(scores: Scores, rows: NDArray[np.int64]) -> float:
        found = compute([metric], kind, scores[rows], target[rows])[metric]
        return float("nan") if found is None else found

    samples = [np.repeat(np.arange(len(target)), one) for one in weights[: _RESAMPLED + 1].astype(np.int64)]
    return np.array([value(federated, rows) - value(local, rows) for rows in samples])


def weighted_auc(scores: Scores, target: Scores, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the AUC under each row of `weights`, ties counted half.

    Parameters
    ----------
    scores, target : arrays of shape (n_rows,)
    weights : array of shape (n_resamples, n_rows)

    Returns
    -------
    array of shape (n_resamples,)
        NaN where a resample lacks a class.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    positive = np.add.reduceat((weights * target)[:, order], starts, axis=1)
    negative = np.add.reduceat((weights * (1 - target))[:, order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(1) * negative.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((positive * (below + negative / 2)).sum(1) / pairs)
