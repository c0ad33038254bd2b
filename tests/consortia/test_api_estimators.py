"""The scikit-learn estimators: their contract, each participant's own ε, the tools that data scientists put around."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import make_classification, make_regression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from consortia import ArgumentError, FederatedClassifier, FederatedRegressor

X, Y = make_classification(60, 4, n_informative=2, n_redundant=0, class_sep=2.0, random_state=1)
Array = NDArray[Any]


def quick(**changes: Any) -> FederatedClassifier:
    return FederatedClassifier(**{"n_participants": 2, "rounds": 2, "epsilon": 4.0} | changes)


@pytest.fixture(scope="module")
def fitted() -> FederatedClassifier:
    return quick(n_participants=3, epsilon=[0.5, 2.0, math.inf], delta=1e-3).fit(X, Y)


def test_every_participant_has_its_own_epsilon(fitted: FederatedClassifier) -> None:
    runs = fitted.spent_[fitted.spent_["horizon"].str.startswith("run ")].set_index("participant")
    assert runs.index.tolist() == fitted.participants_.tolist() == [0, 1, 2]
    assert 0 < runs.loc[0, "epsilon"] <= 0.5 < runs.loc[1, "epsilon"] <= 2.0
    assert runs.loc[2, "epsilon"] == math.inf
    assert runs["delta"].tolist()[:2] == [1e-3, 1e-3]
    assert fitted.history_["participant"].unique().tolist() == [0, 1, 2]


def test_rows_belong_to_whom_the_caller_says() -> None:
    whose = np.where(np.arange(len(X)) < 20, "small", "large")
    made = quick(epsilon={"small": 1.0, "large": math.inf}).fit(X, Y, participant=whose)
    assert made.participants_.tolist() == ["large", "small"]
    infinite = made.spent_.groupby("participant")["epsilon"].max()
    assert infinite["large"] == math.inf
    assert infinite["small"] < 1.0


def test_without_noise_a_fit_repeats() -> None:
    exact = quick(epsilon=math.inf)
    assert np.array_equal(exact.fit(X, Y).predict_proba(X), clone(exact).fit(X, Y).predict_proba(X))
    assert not exact.__sklearn_tags__().non_deterministic


def test_noise_is_never_seeded(fitted: FederatedClassifier) -> None:
    assert not np.array_equal(fitted.predict_proba(X), clone(fitted).fit(X, Y).predict_proba(X))
    tags = fitted.__sklearn_tags__()
    assert tags.non_deterministic
    assert tags.classifier_tags.poor_score


def test_it_stands_in_pipelines_and_files(fitted: FederatedClassifier) -> None:
    pipe = make_pipeline(StandardScaler(), quick(epsilon=math.inf, bounds=(-3, 3), rounds=4))
    assert cross_val_score(pipe, X, Y, cv=2).mean() > 0.8
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(X), fitted.predict_proba(X))


def test_declared_bounds_are_the_schemas_and_values_beyond_are_clamped() -> None:
    made = quick(bounds=([-1, -1, -1, -1], 1), rounds=1, epsilon=math.inf).fit(X, Y)
    assert {(column.low, column.high) for column in made.schema_.columns} == {(-1.0, 1.0)}
    far = np.full((1, 4), 50.0)
    assert np.array_equal(made.predict_proba(far), made.predict_proba(far * 2))
    holes = np.full((1, 4), np.nan)
    assert np.array_equal(made.predict_proba(holes), made.predict_proba(np.zeros((1, 4))))
    values = np.linspace(0, 100, len(X))
    regression = FederatedRegressor(n_participants=1, rounds=1, epsilon=math.inf, target_bounds=(0, 50)).fit(X, values)
    assert (regression.schema_.target.low, regression.schema_.target.high) == (0, 50)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_participants": 0}, "n_participants: wanted a whole number >= 1, got 0"),
        ({"n_participants": 61}, "n_participants: wanted at most one for each row"),
        ({"epsilon": [1.0]}, "epsilon: wanted 2 numbers, one a participant, got 1"),
        ({"epsilon": {0: 1.0}}, "epsilon: wanted one for every participant"),
        ({"epsilon": -1.0}, "epsilon: wanted a number > 0"),
        ({"rounds": 0}, r"contract\.rounds: wanted"),
        ({"bounds": (1, 0)}, "bounds: wanted finite low < high"),
        ({"bounds": 3}, r"bounds: wanted \(low, high\)"),
    ],
)
def test_a_parameter_that_is_none_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        quick(**change).fit(X, Y)


def test_labels_of_participants_are_one_a_row() -> None:
    with pytest.raises(ArgumentError, match="participant: wanted one label for each of 60 rows"):
        quick().fit(X, Y, participant=["a"])


#: Two fits draw different noise, so they do not give the same predictions; nothing else is let off.
TWO_FITS = dict.fromkeys(
    (
        "check_classifier_data_not_an_array",
        "check_regressor_data_not_an_array",
        "check_supervised_y_2d",
        "check_fit_idempotent",
        "check_regressors_int",
    ),
    "two private fits draw different noise",
)


@pytest.mark.end_to_end
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("estimator", "let_off"),
    [
        (FederatedClassifier(epsilon=math.inf, rounds=10), {}),
        (FederatedRegressor(epsilon=math.inf, rounds=10), {}),
        (FederatedClassifier(epsilon=2.0, rounds=3), TWO_FITS),
        (FederatedRegressor(epsilon=2.0, rounds=3), TWO_FITS),
    ],
    ids=["classifier", "regressor", "private-classifier", "private-regressor"],
)
def test_scikit_learn_accepts_it(estimator: Any, let_off: dict[str, str]) -> None:
    checks = check_estimator(estimator, expected_failed_checks=let_off, on_skip=None, on_fail="raise")
    passed = {check["check_name"] for check in checks if check["status"] == "passed"}
    assert len(passed) >= 40
    assert {check["check_name"] for check in checks if check["status"] == "xfail"} <= set(let_off)
    skipped = {check["check_name"] for check in checks if check["status"] == "skipped"}
    assert skipped <= {"check_array_api_input", "check_pipeline_consistency"}


@pytest.mark.end_to_end
def test_it_learns() -> None:
    features, labels = make_classification(400, 6, n_informative=4, class_sep=1.5, n_classes=3, random_state=0)
    assert cross_val_score(FederatedClassifier(epsilon=8.0, rounds=10), features, labels, cv=2).mean() > 0.5
    features, values = make_regression(400, 4, noise=5.0, random_state=0)
    assert cross_val_score(FederatedRegressor(epsilon=8.0, rounds=10), features, values, cv=2).mean() > 0.5


@pytest.mark.end_to_end
def test_searches_and_folds_in_other_processes() -> None:
    search = GridSearchCV(quick(epsilon=math.inf), {"rounds": np.array([1, 3])}, cv=2).fit(X, Y)
    assert search.best_params_["rounds"] in (1, 3)
    assert cross_val_score(quick(), X, Y, cv=2, n_jobs=2).shape == (2,)
    whose = np.arange(len(X)) % 3
    assert cross_val_score(quick(), X, Y, cv=2, params={"participant": whose}).shape == (2,)
