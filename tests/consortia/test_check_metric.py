"""Every metric passes `check_metric`, and a broken one fails the check that is named after what it breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from clients.metrics import Interval, Metric, by_row, by_sample, get, names, paired_bootstrap
from consortia.testing import MetricCheckError, check_metric
from consortia.testing._metrics import _CHECKS

RMSE, AUC, ACCURACY = get("rmse"), get("auc"), get("accuracy")


@pytest.mark.parametrize("name", names())
def test_every_metric_holds_its_promises(name: str) -> None:
    assert check_metric(get(name)) == tuple(_CHECKS)


def test_a_metric_of_scikit_learn_and_one_without_an_interval_pass() -> None:
    from sklearn.metrics import balanced_accuracy_score

    @by_sample
    def balanced(scores: Any, target: Any, weights: Any) -> float | None:
        both = len(np.unique(target)) == 2
        return balanced_accuracy_score(target, scores >= 0.5, sample_weight=weights) if both else None

    made = Metric(name="balanced", label="balanced accuracy", better="higher", kinds=("binary",), weighted=balanced)
    # Its intervals take 25 times 1000 calls; those of a function of all samples at once are tried above.
    check_metric(replace(made, interval=lambda *_: None))


def _error(scores, target):
    return np.abs(scores - target)


def _raises_on_one_class(scores, target, weights):
    if len(np.unique(target)) < 2:
        raise ValueError("one class")
    return AUC.weighted(scores, target, weights)


def _infinite(scores, target, weights):
    found = AUC.weighted(scores, target, weights)
    return np.where(np.isnan(found), np.inf, found)


def _in_place(scores, target, weights):
    scores -= target
    return np.sqrt(weights @ scores**2 / weights.sum(1))


def _draws(scores, target, weights):
    np.random.rand()
    return RMSE.weighted(scores, target, weights)


def _noisy(scores, target, weights):
    return RMSE.weighted(scores, target, weights) + np.random.default_rng().normal(size=len(weights))


def _over_rows(metric, left, right, target, units, generator):
    return paired_bootstrap(metric, left, right, target, np.arange(len(target)), generator)


def _left_alone(metric, left, right, target, units, generator):
    found = paired_bootstrap(metric, left, right, target, units, generator)
    return found and replace(found, value=float(metric.values(left, target, np.ones((1, len(target))))[0]))


def _narrow(metric, left, right, target, units, generator):
    found = paired_bootstrap(metric, left, right, target, units, generator)
    half = found and (found.high - found.low) / 12
    return found and Interval(found.value, found.value - half, found.value + half)


MUTANTS: dict[str, list[Callable[[], Metric]]] = {
    "has_a_value_on_ordinary_rows": [
        lambda: replace(RMSE, weighted=lambda s, y, w: np.full(len(w), np.nan)),
        lambda: replace(RMSE, weighted=lambda s, y, w: np.array(np.mean(_error(s, y)))),
    ],
    "a_weight_is_a_number_of_rows": [
        lambda: replace(RMSE, weighted=lambda s, y, w: np.full(len(w), np.mean(_error(s, y)))),
        lambda: replace(RMSE, weighted=lambda s, y, w: w**2 @ _error(s, y) / (w**2).sum(1)),
    ],
    "twice_the_rows_are_worth_the_same": [lambda: replace(RMSE, weighted=lambda s, y, w: w @ _error(s, y))],
    "a_sample_sees_its_own_weights_alone": [
        lambda: replace(RMSE, weighted=lambda s, y, w: w @ _error(s, y) / w.sum(1).mean()),
    ],
    "order_of_rows_does_not_matter": [
        lambda: replace(RMSE, weighted=by_row(lambda s, y: np.linspace(0.5, 1.5, len(y)) * _error(s, y))),
    ],
    "better_scores_are_better": [
        lambda: replace(RMSE, better="higher"),
        lambda: replace(AUC, better="lower"),
        lambda: replace(ACCURACY, weighted=by_row(lambda s, y: np.ones(len(y)))),
    ],
    "odd_rows_have_a_number_or_none": [
        lambda: replace(AUC, weighted=_raises_on_one_class),
        lambda: replace(AUC, weighted=_infinite),
    ],
    "changes_none_of_its_inputs": [lambda: replace(RMSE, weighted=_in_place)],
    "the_same_rows_give_the_same_value": [
        lambda: replace(RMSE, weighted=_draws),
        lambda: replace(RMSE, weighted=_noisy),
    ],
    "the_interval_is_that_of_the_gain": [lambda: replace(RMSE, interval=_left_alone)],
    "the_interval_is_over_units": [
        lambda: replace(RMSE, interval=_over_rows),
        lambda: replace(RMSE, interval=lambda *_: Interval(0.0, -1.0, 1.0)),
    ],
    "the_interval_holds_the_truth": [lambda: replace(RMSE, interval=_narrow)],
}


@pytest.mark.parametrize(
    ("check", "mutant"),
    [
        pytest.param(check, mutant, id=f"{check}-{n}")
        for check, mutants in MUTANTS.items()
        for n, mutant in enumerate(mutants)
    ],
)
def test_the_named_check_rejects_the_mutant(check: str, mutant: Callable[[], Metric]) -> None:
    with pytest.raises(MetricCheckError) as caught:
        check_metric(mutant())
    assert check in caught.value.failures
    assert f"  {check}: " in str(caught.value)


def test_every_check_has_a_mutant() -> None:
    assert set(MUTANTS) == set(_CHECKS)
