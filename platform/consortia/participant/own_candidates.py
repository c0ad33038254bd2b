"""What a participant can train alone: ridge, a random forest, gradient boosting, the contract's network.

None of these models leaves or influences a release, so they train without DP (invariants 6, 7 and 17). Each is a
function from rows to a `Scorer`, which can also be returned as data. They use one thread. The participant's name seeds
random draws.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clients import registry
from clients._labels import NONE, bits
from clients.dataset import Table
from clients.industry import IndustryClient
from clients.models import loss_for
from clients.schema import Target
from consortia.participant.early_stopping import mean_loss, set_aside, train_until_it_stops
from consortia.participant.evaluation import Scores, module_scorer
from consortia.participant.own_model import OwnModel, Scorer, constant, linear
from consortia.participant.trees import Trees, of_fitted, together
from consortia.terms.contract import Contract
from consortia.terms.scopes import starting_module
from privacy.randomness import numpy_generator, seeded_generator

__all__ = ["Candidate", "Fit", "boosting", "candidates", "forest", "majority", "network", "ridge", "unlabelled"]

Fit = Callable[[Table], Scorer]

#: Inverse strengths of the logistic ridge; strengths of the linear one.
_INVERSE, _STRENGTHS = (0.003, 0.01, 0.1, 1.0, 10.0), (1e-3, 0.1, 1.0, 10.0, 100.0)
#: A forest draws at most this many units for a tree, and boosting sees at most this many rows for one: public caps.
_UNITS_A_TREE, _ROWS_A_TREE = 20_000, 20_000
_TREES, _LEAF = 60, 2
_BOOSTED: dict[str, Any] = {"n_estimators": 40, "learning_rate": 0.15, "max_depth": 3, "min_samples_leaf": 5}
_SOLVES, _ITERATIONS, _PATIENCE, _DECAY = 30, 5, 4, 1e-4


@dataclass(frozen=True)
class Candidate:
    """A way to train a model at home. Candidates of one `kind` differ in their settings (`detail`).

    `fit` takes training rows. `ready` is the model fitted to all of them, if it exists already.
    """

    kind: str
    detail: str
    fit: Fit
    ready: Scorer | None = None


def candidates(contract: Contract, industry: str, participant: str) -> list[Candidate]:
    """Return the candidates of a participant. A linear network is left out, because ridge fits it better."""
    client = registry.get(industry)
    regression = client.schema.target.kind == "regression"

    def of_strength(strength: float) -> Fit:
        return lambda rows: ridge(client, rows, participant, strength)

    found = [
        Candidate("ridge", f"{'strength' if regression else 'C'} {strength:g}", of_strength(strength))
        for strength in (_STRENGTHS if regression else _INVERSE)
    ]
    found.append(Candidate("forest", "", lambda rows: forest(client, rows, participant)))
    found.append(Candidate("boosting", "", lambda rows: boosting(client, rows, participant)))
    if contract.industries[industry].model.kind != "linear":
        found.append(Candidate("same network", "", lambda rows: network(contract, industry, rows, participant)))
    return found


def unlabelled(contract: Contract, client: IndustryClient, participant: str) -> tuple[Candidate, Candidate]:
    """Return the two models of a participant that has no labels: the contract's network, and an isolation forest."""
    return (
        Candidate("same network", "", lambda rows: network(contract, client.name, rows, participant)),
        Candidate("isolation forest", "", lambda rows: isolation(client, rows, participant)),
    )


def isolation(client: IndustryClient, train: Table, participant: str) -> Scorer:
    """Fit an isolation forest (Liu, Ting and Zhou 2008): rows that few random cuts set apart are anomalies.

    The score's log-odds are less the mean path through the trees, in units of that of an ordinary row.
    """
    from sklearn.ensemble import IsolationForest

    target, x = client.schema.target, _features(train)
    if len(x) < 2:
        return majority(client, train)
    model = IsolationForest(n_estimators=_TREES, random_state=_seed("isolation", participant)).fit(x)
    usual = float(_paths(np.array([model.max_samples_]))[0])
    fitted = [one.tree_ for one in model.estimators_]
    values = []
    for tree in fitted:
        depth = np.zeros(tree.node_count)
        for node in range(tree.node_count):  # a node comes before its children
            if tree.children_left[node] >= 0:
                depth[[tree.children_left[node], tree.children_right[node]]] = depth[node] + 1
        path = depth + _paths(tree.n_node_samples)
        values.append(-path[:, None] / (_TREES * usual))
    return _of_trees(target, of_fitted(fitted, values, np.zeros(1), shares=False))


def _paths(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean path to a row of a random tree of so many rows (Liu, Ting and Zhou 2008, equation 1)."""
    n = np.maximum(rows, 2).astype(np.float64)
    found = 2 * (np.log(np.maximum(n - 1, 1)) + np.euler_gamma) - 2 * (n - 1) / n
    return np.select([rows < 2, rows == 2], [0.0, 1.0], found)


def majority(client: IndustryClient, train: Table) -> Scorer:
    """Return the constant prediction: base rate, shares of classes or labels, or mean of the training rows."""
    target, width = train.target, train.inputs["features"].shape[1]
    if client.schema.target.outputs > 1:
        one_each = _outputs(client.schema.target, train)
        shares = one_each.sum(0) / max(1, len(target))
        return Scorer(
            lambda table: np.tile(shares, (len(table.target), 1)), lambda: constant(client.schema.target, width, shares)
        )
    labelled = len(target) and client.schema.target.kind != "anomaly"
    value = float(target.double().mean()) if labelled else 0.5
    return Scorer(
        lambda table: np.full(len(table.target), value),
        lambda: constant(client.schema.target, width, np.array([value])),
    )


def ridge(client: IndustryClient, train: Table, participant: str, strength: float | None = None) -> Scorer:
    """Fit a ridge model; with only one class, the majority.

    Parameters
    ----------
    strength : float, optional
        C of a logistic regression, or alpha of a linear one. By default cross-validation on the training rows chooses
        it.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, Ridge, RidgeCV
    from sklearn.model_selection import StratifiedKFold
    from threadpoolctl import threadpool_limits

    if client.schema.target.kind == "multilabel":
        return _each_label(client, train, lambda one, rows: ridge(one, rows, participant, strength))
    x = np.asarray(train.inputs["features"], dtype=np.float64)
    y = np.asarray(train.target)
    kind = client.schema.target.kind
    if kind == "regression":
        if len(y) < 2:
            return majority(client, train)
        solver: Any = RidgeCV(alphas=np.logspace(-4, 3, 15)) if strength is None else Ridge(alpha=strength)
        fitted = solver.fit(x, y.astype(float))
        middle, half = client.schema.target.scale
        slope, intercept = fitted.coef_.ravel(), float(fitted.intercept_)
        return Scorer(  # not `predict`, because it refuses a partition without rows
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
    if strength is None and folds >= 2:
        model: Any = LogisticRegressionCV(
            Cs=np.logspace(-3, 3, 13),
            cv=StratifiedKFold(folds, shuffle=True, random_state=_seed("ridge", participant)),
            scoring="neg_log_loss",
            solver="newton-cholesky",
        )
    else:
        model = LogisticRegression(C=strength or 0.1, solver="newton-cholesky")
    # One thread: several participants share this machine, and small matrices are slower with more threads. A search
    # sets this once for all its fits, because the call takes as long as one fit.
    with threadpool_limits(1) if strength is None else contextlib.nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        model.fit(x, y.astype(int))
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
    """Return a fitted logistic regression as data. A class that it never saw gets the smallest possible logit."""
    slope, intercept = np.asarray(model.coef_).T, np.asarray(model.intercept_)
    if target.kind == "binary":
        return linear(target, slope, intercept)
    if slope.shape[1] == 1:  # only two of several classes: one logit, of the second class against the first
        slope, intercept = np.column_stack([np.zeros_like(slope), slope]), np.r_[0.0, intercept]
    seen = model.classes_.astype(int)
    full, start = np.zeros((len(slope), classes)), np.full(classes, -1e3)
    full[:, seen], start[seen] = slope, intercept
    return linear(target, full, start)


def forest(client: IndustryClient, train: Table, participant: str) -> Scorer:
    """Fit a random forest (Breiman 2001): 60 trees, each on a new bootstrap of units, with random columns at each node.

    The trees are regression trees on the indicators of the classes. Their splits by squared error are the same as
    splits by Gini's index. Units are drawn, not rows, so that a patient's rows stay together.
    """
    import sklearn
    from sklearn.tree import DecisionTreeRegressor

    target, x = client.schema.target, _features(train)
    if _one_class(target, train):
        return majority(client, train)
    y = _outputs(target, train)
    of_row, n_units = np.asarray(train.unit_index), train.n_units
    columns = np.sqrt(x.shape[1]) if target.classes else x.shape[1] / 3
    rng = numpy_generator("forest", participant)
    fitted = []
    with sklearn.config_context(skip_parameter_validation=True):
        for _ in range(_TREES):
            drawn = rng.integers(n_units, size=min(n_units, _UNITS_A_TREE))
            weight = np.bincount(drawn, minlength=n_units)[of_row].astype(np.float64)
            inside = weight > 0
            tree = DecisionTreeRegressor(
                min_samples_leaf=_LEAF, max_features=max(1, round(columns)), random_state=int(rng.integers(2**31))
            )
            fitted.append(tree.fit(x[inside], y[inside], sample_weight=weight[inside], check_input=False).tree_)
    values = [tree.value[:, :, 0] / _TREES for tree in fitted]
    return _of_trees(target, of_fitted(fitted, values, np.zeros(target.outputs), shares=bool(target.classes)))


def boosting(client: IndustryClient, train: Table, participant: str) -> Scorer:
    """Fit gradient boosting (Friedman 2002): 40 trees of depth 3, each on 70 % of the rows and half of the columns."""
    import sklearn
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    if client.schema.target.kind == "multilabel":
        return _each_label(client, train, lambda one, rows: boosting(one, rows, participant))
    target, x = client.schema.target, _features(train)
    if _one_class(target, train) or len(x) < 2:
        return majority(client, train)
    terms = {
        **_BOOSTED,
        "subsample": min(0.7, _ROWS_A_TREE / len(x)),
        "max_features": min(16, -(-x.shape[1] // 2)),
        "random_state": _seed("boosting", participant),
    }
    with sklearn.config_context(skip_parameter_validation=True):
        if not target.classes:
            model: Any = GradientBoostingRegressor(**terms).fit(x, _outputs(target, train)[:, 0])
            seen, raw = np.array([0]), model.predict(x[:1]).reshape(1, -1)
        else:
            model = GradientBoostingClassifier(**terms).fit(x, np.asarray(train.target).astype(int))
            seen, raw = model.classes_.astype(int), model.decision_function(x[:1]).reshape(1, -1)
    one_logit = target.kind == "binary" or (target.kind == "multiclass" and len(seen) == 2)
    places = seen[1:] if one_logit and target.kind == "multiclass" else (np.array([0]) if one_logit else seen)
    fitted, values = [], []
    for step in model.estimators_:
        for place, tree in zip(places, step, strict=True):
            adds = np.zeros((tree.tree_.node_count, target.outputs))
            adds[:, place] = tree.tree_.value[:, 0, 0] * terms["learning_rate"]
            fitted.append(tree.tree_)
            values.append(adds)
    # A missing class gets the smallest possible logit. Of two classes the first has the logit zero.
    start = np.full(target.outputs, -1e3 if target.kind == "multiclass" else 0.0)
    start[seen if target.kind == "multiclass" else 0] = 0.0
    sums = of_fitted(fitted, values, np.zeros(target.outputs), shares=False)
    start[places] = raw[0] - sums(torch.from_numpy(x[:1])).numpy()[0, places]
    return _of_trees(target, of_fitted(fitted, values, start, shares=False))


def network(contract: Contract, industry: str, train: Table, participant: str) -> Scorer:
    """Fit the contract's network by L-BFGS, until the loss of 15 % of the training units stops falling.

    It starts where the federated one does: from the contract's file, where it names one.
    """
    torch.set_num_threads(1)
    client = registry.get(industry)
    module = starting_module(contract, industry).eval()
    loss = loss_for(client.schema.target)
    generator = seeded_generator("local", contract.seed, participant)
    rows, watched = set_aside(train, generator)
    if not len(rows.target) or not len(watched.target):
        return module_scorer(module)
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    solver = torch.optim.LBFGS(weights, max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def objective() -> torch.Tensor:
        solver.zero_grad()
        total = loss(module(rows.inputs), rows.target).mean()
        total = total + _DECAY / 2 * torch.stack([weight.square().sum() for weight in weights]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    train_until_it_stops(
        module,
        lambda: solver.step(objective),  # type: ignore[no-untyped-call]
        lambda: mean_loss(module, watched, loss),
        epochs=_SOLVES,
        patience=_PATIENCE,
    )
    return module_scorer(module)


def _each_label(client: IndustryClient, train: Table, fit: Callable[[IndustryClient, Table], Scorer]) -> Scorer:
    """Fit a model of two classes to each label by itself; one for a label that all rows have, or none, is constant."""
    target, there = client.schema.target, _outputs(client.schema.target, train)
    parts = []
    for place, name in enumerate(target.classes):
        alone = replace(client.schema, target=Target(name=target.name, kind="binary", classes=(NONE, name)))
        one = replace(client, schema=alone, metrics=("auc",))
        labels = torch.from_numpy(there[:, place]).float()
        parts.append(fit(one, replace(train, target=labels)).model())
    slopes = [torch.zeros(train.inputs["features"].shape[1], 1, dtype=torch.float64)] * len(parts)
    model = OwnModel(
        target,
        None,
        torch.cat([none if one.slope is None else one.slope for one, none in zip(parts, slopes, strict=True)], 1),
        torch.cat([torch.zeros(1).double() if one.intercept is None else one.intercept for one in parts]),
        together([one.trees for one in parts]),
    )
    return _scorer_of(model)


def _of_trees(target: Target, trees: Trees) -> Scorer:
    return _scorer_of(OwnModel(target, trees=trees))


def _scorer_of(model: OwnModel) -> Scorer:
    def scores(table: Table) -> Scores:
        with torch.no_grad():
            return np.asarray(model(table.inputs["features"]), dtype=np.float64)

    return Scorer(scores, lambda: model)


def _features(train: Table) -> NDArray[np.float32]:
    return np.ascontiguousarray(train.inputs["features"], dtype=np.float32)


def _outputs(target: Target, train: Table) -> NDArray[np.float64]:
    """Return (n_rows, outputs): 0/1 of the positive class, of each class or label, or a regression's scaled values."""
    y = np.asarray(train.target, dtype=np.float64)
    if target.kind == "multiclass":
        return np.asarray(np.eye(target.outputs)[y.astype(int)])
    if target.kind == "multilabel":
        return bits(y, target.outputs)
    middle, half = target.scale if target.kind == "regression" else (0.0, 1.0)
    return np.asarray((y[:, None] - middle) / half)


def _one_class(target: Target, train: Table) -> bool:
    return len(train.target) == 0 or (bool(target.classes) and len(torch.unique(train.target)) < 2)


def _seed(*parts: str | int) -> int:
    return int(numpy_generator(*parts).integers(2**31))
