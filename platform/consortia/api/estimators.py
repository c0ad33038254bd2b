"""scikit-learn estimators around a simulated consortium: `fit` deals the rows to participants and trains them together.

Guarantee: see `FederatedClassifier`. Every fit starts with new ledgers, so nothing here counts what several fits on the
same rows cost together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from clients import tables
from clients.schema import Schema
from consortia.api.participants import Participant
from consortia.api.training import train
from consortia.common.errors import ArgumentError

__all__ = ["FederatedClassifier", "FederatedRegressor"]

Budgets = float | Sequence[float] | NDArray[np.float64] | Mapping[Any, float]
Bounds = tuple[ArrayLike, ArrayLike]
#: All rows train; scikit-learn has held others out. A contract wants a test part, which is empty then.
_SPLIT = (1 - 1e-9, 0.0, 1e-9)
_TARGET = "y"


class _Federated:
    """What both estimators share; see `FederatedClassifier`. It precedes scikit-learn's classes, to set their tags."""

    def __init__(
        self,
        *,
        n_participants: int = 3,
        epsilon: Budgets = 1.0,
        delta: float | None = None,
        rounds: int = 20,
        hidden: Sequence[int] = (),
        local_steps: int = 2,
        learning_rate: float = 0.5,
        clip: float = 1.0,
        sampling_rate: float | None = None,
        strategy: str | Mapping[str, Any] = "fedavg",
        bounds: Bounds | None = None,
        random_state: Any = 0,
    ) -> None:
        self.n_participants = n_participants
        self.epsilon = epsilon
        self.delta = delta
        self.rounds = rounds
        self.hidden = hidden
        self.local_steps = local_steps
        self.learning_rate = learning_rate
        self.clip = clip
        self.sampling_rate = sampling_rate
        self.strategy = strategy
        self.bounds = bounds
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc] # of scikit-learn's classes
        tags.input_tags.allow_nan = True
        tags.non_deterministic = private = self._private()
        for one in (tags.classifier_tags, tags.regressor_tags):
            if one is not None:
                one.poor_score = private  # few rows and much noise: any score may come
        return tags

    def _private(self) -> bool:
        """Return whether any participant adds noise, which nothing seeds."""
        given = self.epsilon
        values = given.values() if isinstance(given, Mapping) else np.atleast_1d(np.asarray(given, dtype=float))
        return not all(math.isinf(value) for value in values)

    def _fit(self, features: NDArray[np.float64], target: NDArray[Any], schema: Schema, dealt: Any) -> Self:
        """Train on features (n_rows, n_features) and target codes or values (n_rows,)."""
        random = check_random_state(self.random_state)
        labels, place = self._deal(len(features), dealt, random)
        budgets = self._budgets(labels)
        frame = _frame(features).assign(**{_TARGET: target})
        names = [f"participant-{number}" for number in range(1, len(labels) + 1)]
        members = [
            Participant(name=name, frame=frame[place == number], epsilon=budgets[number], delta=self.delta)
            for number, name in enumerate(names)
        ]
        run = train(
            members,
            schema=schema,
            rounds=self.rounds,
            hidden=self.hidden,
            local_steps=self.local_steps,
            learning_rate=self.learning_rate,
            clip=self.clip,
            sampling_rate=self.sampling_rate,
            strategy=self.strategy,
            split=_SPLIT,
            seed=int(random.randint(2**31)),
            receipts=False,
        )
        named = dict(zip(names, labels, strict=True))
        self.participants_ = labels
        self.spent_ = run.spent().assign(participant=lambda table: table["participant"].map(named))
        self.history_ = run.history().assign(participant=lambda table: table["participant"].map(named))
        self.schema_ = schema
        self.model_ = run.model().model
        return self

    def _deal(self, rows: int, dealt: Any, random: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the participants' labels and each row's place among them."""
        if dealt is not None:
            given = np.asarray(dealt)
            if given.shape != (rows,):
                raise ArgumentError(
                    f"participant: wanted one label for each of {rows} rows, got an array of shape {given.shape}"
                )
            labels, place = np.unique(given, return_inverse=True)
            return labels, place
        count = self.n_participants
        if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 1:
            raise ArgumentError(f"n_participants: wanted a whole number >= 1, got {count!r}")
        if rows < count:
            raise ArgumentError(
                f"n_participants: wanted at most one for each row (n_samples={rows}), got {count}; pass more rows or "
                "fewer participants"
            )
        return np.arange(count), random.permutation(rows) % count

    def _budgets(self, labels: NDArray[Any]) -> list[float]:
        given = self.epsilon
        if isinstance(given, Mapping):
            if lacking := [each for each in labels.tolist() if each not in given]:
                raise ArgumentError(f"epsilon: wanted one for every participant, got none for {lacking[0]!r}")
            return [given[each] for each in labels.tolist()]
        if isinstance(given, Sequence | np.ndarray):
            if len(given) != len(labels):
                raise ArgumentError(f"epsilon: wanted {len(labels)} numbers, one a participant, got {len(given)}")
            return list(given)
        return [given] * len(labels)

    def _schema(self, features: NDArray[np.float64], target: NDArray[Any], kind: tables.Kind) -> Schema:
        """Return the schema: bounds as given, else those of the rows; a missing value is the middle of its bounds."""
        inferred = tables.infer_schema([_frame(features).assign(**{_TARGET: target})], _TARGET, kind=kind)
        columns = [dataclasses.replace(column, nullable=True) for column in inferred.columns]
        if self.bounds is not None:
            low, high = _bounds(self.bounds, len(columns), "bounds")
            columns = [
                dataclasses.replace(column, low=least, high=most)
                for column, least, most in zip(columns, low, high, strict=True)
            ]
        return dataclasses.replace(inferred, columns=tuple(columns), indicators=False)

    def _scores(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return probabilities (n_rows,) or (n_rows, n_classes), or values (n_rows,)."""
        check_is_fitted(self)
        features = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False)
        with torch.no_grad():
            found = self.model_(torch.from_numpy(self.schema_.features(_frame(features))))
        return np.asarray(found, dtype=np.float64)


class FederatedClassifier(_Federated, ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """A classifier that participants train together, each on its own rows and at its own ε. For simulation.

    `fit` writes every participant's rows into a home of its own in a temporary folder, and trains as `consortia.train`
    does: policy, ledger, DP-SGD, release gate. All rows train; the class measures nothing at the participants.

    Guarantee: the fitted model is (ε, δ) differentially private for adding or removing one row of a participant, for
    this one fit, given `bounds`, `classes_` and how rows were dealt. WITHOUT `bounds` THESE ARE READ OFF THE ROWS,
    WHICH IS NOT PRIVATE. Every fit starts with new ledgers: k-fold cross-validation trains on a row k - 1 times, and a
    search even more often; together they cost up to the sum of their ε, which nobody counts here.

    Parameters
    ----------
    n_participants : int
        Rows are dealt to so many at random, unless `fit` is told whose each row is.
    epsilon : float, sequence of float, or mapping
        Of one fit: for everybody, one a participant, or by the labels given to `fit`; `math.inf` is non-private.
    delta : float, optional
        See `Participant`.
    rounds, hidden, local_steps, learning_rate, clip, sampling_rate, strategy
        See `consortia.train`.
    bounds : (low, high), optional
        Public bounds of the features, each a number or an array (n_features,). Values beyond are clamped.
    random_state : int, RandomState or None
        Of the dealing and the start. Nothing seeds the noise: two private fits differ.

    Attributes
    ----------
    classes_ : ndarray (n_classes,)
    participants_ : ndarray (n_participants,)
        Labels of the participants.
    spent_, history_ : DataFrame
        See `Run.spent` and `Run.history`.
    schema_ : Schema
    model_ : torch module
        From features in [-1, 1] to probabilities.

    Notes
    -----
    A missing value counts as the middle of its bounds. There is no `sample_weight`: the weight of a row is what a clip
    bounds.
    """

    def fit(self, X: ArrayLike, y: ArrayLike, participant: ArrayLike | None = None) -> Self:
        """Train.

        Parameters
        ----------
        X : array-like (n_rows, n_features)
            Numbers; put an encoder before it for anything else.
        y : array-like (n_rows,)
        participant : array-like (n_rows,), optional
            Label of whose each row is, instead of dealing them at random.

        Raises
        ------
        ArgumentError
            A ValueError that names the parameter, wanted and got.
        """
        features, labels = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan")
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ArgumentError("y: wanted at least two classes, got 1 class")
        kind: tables.Kind = "binary" if len(self.classes_) == 2 else "multiclass"
        return self._fit(features, codes, self._schema(features, codes, kind), participant)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of each class (n_rows, n_classes), in the order of `classes_`."""
        scores = self._scores(X)
        if scores.ndim == 1:
            return np.column_stack([1 - scores, scores])
        shares: NDArray[np.float64] = scores / scores.sum(axis=1, keepdims=True)
        return shares

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of each row (n_rows,)."""
        best = self.predict_proba(X).argmax(axis=1)
        found: NDArray[Any] = self.classes_[best]
        return found


class FederatedRegressor(_Federated, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A regression that participants train together, each on its own rows and at its own ε. For simulation.

    Guarantee, parameters and attributes are those of `FederatedClassifier`, without classes, and:

    Parameters
    ----------
    target_bounds : (low, high), optional
        Public bounds of the target; values beyond are clamped. Without them they are read off the rows, which is not
        private.
    """

    def __init__(
        self,
        *,
        n_participants: int = 3,
        epsilon: Budgets = 1.0,
        delta: float | None = None,
        rounds: int = 20,
        hidden: Sequence[int] = (),
        local_steps: int = 2,
        learning_rate: float = 0.5,
        clip: float = 1.0,
        sampling_rate: float | None = None,
        strategy: str | Mapping[str, Any] = "fedavg",
        bounds: Bounds | None = None,
        target_bounds: tuple[float, float] | None = None,
        random_state: Any = 0,
    ) -> None:
        super().__init__(
            n_participants=n_participants,
            epsilon=epsilon,
            delta=delta,
            rounds=rounds,
            hidden=hidden,
            local_steps=local_steps,
            learning_rate=learning_rate,
            clip=clip,
            sampling_rate=sampling_rate,
            strategy=strategy,
            bounds=bounds,
            random_state=random_state,
        )
        self.target_bounds = target_bounds

    def fit(self, X: ArrayLike, y: ArrayLike, participant: ArrayLike | None = None) -> Self:
        """Train; see `FederatedClassifier.fit`."""
        features, values = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan", y_numeric=True)
        if self.target_bounds is not None:
            (low,), (high,) = _bounds(self.target_bounds, 1, "target_bounds")
            values = np.clip(values, low, high)
            schema = self._schema(features, values, "regression")
            target = dataclasses.replace(schema.target, low=low, high=high)
            schema = dataclasses.replace(schema, target=target)
        else:
            schema = self._schema(features, values, "regression")
        return self._fit(features, values, schema, participant)

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the predicted value of each row (n_rows,)."""
        return self._scores(X)


def _frame(features: NDArray[np.float64]) -> pd.DataFrame:
    return pd.DataFrame(features, columns=[f"x{number}" for number in range(features.shape[1])])


def _bounds(given: Bounds, width: int, name: str) -> tuple[list[float], list[float]]:
    try:
        low, high = (np.broadcast_to(np.asarray(each, dtype=np.float64), (width,)) for each in given)
    except (TypeError, ValueError):
        raise ArgumentError(f"{name}: wanted (low, high), numbers or arrays of {width}, got something else") from None
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise ArgumentError(f"{name}: wanted finite low < high everywhere, got others")
    return low.tolist(), high.tolist()
