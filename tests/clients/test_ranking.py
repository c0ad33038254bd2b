"""Metrics of a ranking: scikit-learn's values, ties, users that rank nothing, intervals over users."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from clients.metrics import get

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("ties", [False, True])
def test_values_are_scikit_learn_s_and_those_of_counting(ties: bool) -> None:
    target = RNG.integers(1, 6, 40).astype(float)
    scores = RNG.normal(size=40).round(0 if ties else 9)
    liked = target > target.mean()
    assert get("ndcg_at_10").value(scores, target) == pytest.approx(ndcg_score([liked], [scores], k=10))
    orders = [np.argsort(-(scores + RNG.uniform(0, 1e-9, 40)))[:10] for _ in range(4000 if ties else 1)]
    counted = np.mean([liked[first].sum() for first in orders]) / liked.sum()
    assert get("recall_at_10").value(scores, target) == pytest.approx(counted, abs=0.01 if ties else 1e-12)


def test_users_are_ranked_one_by_one_and_those_who_rank_nothing_are_left_out() -> None:
    target = np.r_[np.tile([5.0, 1.0], 10), np.tile([1.0, 2.0], 10), np.ones(20), [1.0, 5.0]]
    units = np.r_[np.zeros(20), np.ones(20), np.full(20, 2), [3, 3]].astype(int)
    metric = get("recall_at_10")
    right = np.r_[target[:20], -target[20:]]  # the second user upside down
    assert metric.value(right, target, units) == 0.5
    weights = np.array([[1.0] * 20 + [3.0] * 42])
    assert metric.values(right, target, weights, units) == pytest.approx([0.25])
    shuffled = RNG.permutation(len(target))
    assert metric.value(right[shuffled], target[shuffled], units[shuffled]) == 0.5
    assert metric.value(right[40:], target[40:], units[40:]) is None


def test_the_interval_is_over_users() -> None:
    units = np.arange(30).repeat(15)
    target = RNG.integers(1, 6, 450).astype(float)
    left, right = target + RNG.normal(0, 0.5, 450), RNG.normal(size=450)
    found = get("ndcg_at_10").gain(left, right, target, units, np.random.default_rng(0))
    assert found is not None
    metric = get("ndcg_at_10")
    gain = float(metric.value(left, target, units) or 0) - float(metric.value(right, target, units) or 0)
    assert found.value == pytest.approx(gain)
    assert 0 < found.low < found.value < found.high
    assert metric.gain(left[:120], right[:120], target[:120], units[:120], np.random.default_rng(0)) is None
