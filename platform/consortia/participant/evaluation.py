"""Measures at home: baselines, the choice of a model, intervals, the numbers of the receipt."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clients import metrics, registry
from clients.dataset import Table
from clients.industry import IndustryClient
from clients.metrics import Interval, compute
from clients.models import FederatedModule, loss_for, predict
from clients.schema import Target
from consortia.participant.own_model import OwnModel, Scorer, constant, linear
from consortia.terms.contract import Contract
from consortia.terms.policy import DatasetTerms
from consortia.terms.scopes import build_module, load_state, state_of
from privacy.randomness import numpy_generator, seeded_generator

Scores = NDArray[np.float64]
Fit = Callable[[Table], Scorer]
Metrics = dict[str, float | None]

_LOCAL_EPOCHS = 300
_PATIENCE = 20


@dataclass(frozen=True)
class Baselines:
    """The participant's alternatives to the federated model; `fit_local` makes `local` from other rows."""

    majority: Scorer
    local: Scorer
    local_kind: str
    fit_local: Fit


def client_for(terms: DatasetTerms) -> IndustryClient:
    """Return a data set's industry, with the metrics that its owner asks for in front.

    Raises
    ------
    MetricError
        Nobody knows one of them, or it does not fit the industry's target.
    """
    return registry.get(terms.industry).measuring(terms.metrics, "dataset.metrics")


def headline(client: IndustryClient, target: torch.Tensor) -> str:
    """Return the metric that a receipt leads with: the first of the industry's that these rows define.

    One class alone has no AUC. A metric is defined where perfect scores have a value.
    """
    y = np.asarray(target, dtype=np.float64)
    kind = client.schema.target.kind
    perfect = np.eye(len(client.schema.target.classes))[y.astype(int)] if kind == "multiclass" else y
    defined = (name for name in client.metrics if metrics.of_kind(name, kind).value(perfect, y) is not None)
    return next(defined, client.metrics[0])


def choice_metric(client: IndustryClient) -> str:
    """Return the metric that chooses a model on the validation rows: a proper score.

    A site's validation part may have thirty rows. Squared error of the probabilities settles more on them than an AUC
    of four positives, is defined with one class, and counts a badly calibrated score as worse, as its user would.
    """
    return {"regression": "rmse", "binary": "brier", "multiclass": "log_loss"}[client.schema.target.kind]


def choose(client: IndustryClient, scores: Scores, table: Table) -> float | None:
    """Return the choosing metric of `scores` on the validation rows; None when there are none."""
    if not len(table.target):
        return None
    name = choice_metric(client)
    return compute([name], client.schema.target.kind, scores, np.asarray(table.target))[name]


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
    """Return every metric of the industry on one table; None where it is undefined."""
    return compute(client.metrics, client.schema.target.kind, scores, np.asarray(table.target))


def baselines(contract: Contract, industry: str, train: Table, validation: Table, participant: str) -> Baselines:
    """Train what the participant could have without anybody else.

    Two local candidates: a ridge model whose strength is cross-validated on the training rows, and the
    contract's own network trained with Adam until the validation loss stops falling. The better one on
    the validation rows counts. Neither ever leaves or feeds a release, so both train without DP
    (invariants 6 and 7): the baseline is not handicapped.
    """
    client = registry.get(industry)
    ways: list[tuple[str, Fit]] = [("ridge", lambda rows: ridge(client, rows, participant))]
    if train.n_units and contract.industries[industry].model.kind != "linear":
        ways.append(("same network", lambda rows: _network(contract, industry, rows, validation, participant)))
    name = choice_metric(client)
    fitted = [fit(train) for _, fit in ways]
    scored = [choose(client, scorer(validation), validation) for scorer in fitted]
    best = 0
    for index in range(1, len(ways)):
        if better(name, scored[index], scored[best]):
            best = index
    return Baselines(majority(client, train), fitted[best], *ways[best])


def majority(client: IndustryClient, train: Table) -> Scorer:
    """Return the constant prediction: base rate, class shares or mean of the training rows."""
    target, width = train.target, train.inputs["features"].shape[1]
    if client.schema.target.kind == "multiclass":
        classes = len(client.schema.target.classes)
        shares = np.bincount(np.asarray(target).astype(int), minlength=classes) / max(1, len(target))
        return Scorer(
            lambda table: np.tile(shares, (len(table.target), 1)), lambda: constant(client.schema.target, width, shares)
        )
    value = float(target.double().mean()) if len(target) else 0.5
    return Scorer(
        lambda table: np.full(len(table.target), value),
        lambda: constant(client.schema.target, width, np.array([value])),
    )


def _log_likelihood(model: Any, x: NDArray[np.float64], y: NDArray[np.int64]) -> float:
    """Return scikit-learn's `neg_log_loss`, whose checks of its arguments take ten times as long as a fit here."""
    shares = model.predict_proba(x)[np.arange(len(y)), np.searchsorted(model.classes_, y)]
    return float(np.log(np.clip(shares, np.finfo(np.float64).eps, 1.0)).mean())


def ridge(client: IndustryClient, train: Table, participant: str) -> Scorer:
    """Fit a ridge model, its strength cross-validated on the training rows; the majority where one class is there."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeCV
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    x = np.asarray(train.inputs["features"], dtype=np.float64)
    y = np.asarray(train.target)
    kind = client.schema.target.kind
    if kind == "regression":
        if len(y) < 2:
            return majority(client, train)
        fitted = RidgeCV(alphas=np.logspace(-4, 3, 15)).fit(x, y.astype(float))
        middle, half = client.schema.target.scale
        slope, intercept = fitted.coef_.ravel(), float(fitted.intercept_)
        return Scorer(  # not `predict`, which refuses a partition without rows
            lambda table: np.asarray(table.inputs["features"], dtype=np.float64) @ slope + intercept,
            lambda: linear(
                client.schema.target,
                slope.reshape(-1, 1) / half,
                np.array([(intercept - middle) / half]),
            ),
        )
    counts = np.bincount(y.astype(int))
    if np.count_nonzero(counts) < 2:
        return majority(client, train)
    folds = int(min(5, counts[counts > 0].min()))
    # One thread: several participants share this machine, and small matrices lose more than they gain.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        if folds >= 2:
            model: Any = LogisticRegressionCV(
                Cs=np.logspace(-3, 3, 13),
                cv=StratifiedKFold(folds, shuffle=True, random_state=_seed("ridge", participant)),
                scoring=_log_likelihood,
                solver="newton-cholesky",
            ).fit(x, y.astype(int))
        else:
            model = LogisticRegression(C=0.1, solver="newton-cholesky").fit(x, y.astype(int))
    classes = len(client.schema.target.classes) if kind == "multiclass" else 2

    def scores(table: Table) -> Scores:
        if not len(table.target):
            return np.zeros(0 if kind == "binary" else (0, classes))
        raw = model.predict_proba(np.asarray(table.inputs["features"], dtype=np.float64))
        full = np.zeros((len(raw), classes))
        full[:, model.classes_.astype(int)] = raw
        return full[:, 1] if kind == "binary" else full

    return Scorer(scores, lambda: _as_linear(client.schema.target, model, classes))


def _as_linear(target: Target, model: Any, classes: int) -> OwnModel:
    """Return a fitted logistic regression as data; a class that it never saw has the least logit there is."""
    slope, intercept = np.asarray(model.coef_).T, np.asarray(model.intercept_)
    if target.kind == "binary":
        return linear(target, slope, intercept)
    if slope.shape[1] == 1:  # two classes of several: one logit, the second's against the first
        slope, intercept = np.column_stack([np.zeros_like(slope), slope]), np.r_[0.0, intercept]
    seen = model.classes_.astype(int)
    full, start = np.zeros((len(slope), classes)), np.full(classes, -1e3)
    full[:, seen], start[seen] = slope, intercept
    return linear(target, full, start)


def _network(contract: Contract, industry: str, train: Table, validation: Table, participant: str) -> Scorer:
    torch.set_num_threads(1)
    client = registry.get(industry)
    module = build_module(contract, industry)
    loss = loss_for(client.schema.target)
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3, weight_decay=1e-4)
    generator = seeded_generator("local", contract.seed, participant)
    best, best_state, waited = float("inf"), state_of(module), 0
    watched = validation if len(validation.target) else train
    size = max(32, len(train.target) // 16)
    for _ in range(_LOCAL_EPOCHS):
        order = torch.randperm(len(train.target), generator=generator)
        for rows in torch.utils.data.BatchSampler(order.tolist(), size, drop_last=False):
            optimizer.zero_grad()
            batch = {name: tensor[rows] for name, tensor in train.inputs.items()}
            loss(module(batch), train.target[rows]).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            value = float(loss(module(watched.inputs), watched.target).mean())
        if value < best - 1e-5:
            best, best_state, waited = value, state_of(module), 0
        else:
            waited += 1
            if waited >= _PATIENCE:
                break
    load_state(module, best_state)
    return module_scorer(module)


def _seed(*parts: str | int) -> int:
    return int(numpy_generator(*parts).integers(2**31))


def gain_interval(metric: str, federated: Scores, local: Scores, table: Table, participant: str) -> Interval | None:
    """Return federated minus local in `metric` (positive: joining paid), or None where undefined.

    The interval is the metric's own, over the units of the rows (`clients.metrics.paired_bootstrap` for most).
    """
    generator = numpy_generator("bootstrap", participant)
    return metrics.get(metric).gain(federated, local, table.target, table.unit_index, generator)
