"""The lifetime filter: each rule alone, both together, and what they prove."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.accounting import epsilon, solve_noise_multiplier
from privacy.events import Event, GaussianRelease, PoissonGaussian
from privacy.filters import LifetimeFilter, run_epsilon_bound
from privacy.plans import Budget

LIFETIME = Budget(4.0, 4e-5)


def train(sigma: float, steps: int, rate: float = 0.2) -> PoissonGaussian:
    return PoissonGaussian(noise_multiplier=sigma, sampling_rate=rate, steps=steps, partition="train", unit="record")


def test_four_runs_of_one_fill_a_lifetime_of_four_exactly() -> None:
    bad: list[Event] = [train(0.3, 1000)]  # rule B cannot help
    rule = LifetimeFilter(LIFETIME)
    assert rule.allows([Budget(1.0, 1e-5)] * 4, bad)
    assert not rule.allows([Budget(1.0, 1e-5)] * 4 + [Budget(0.01, 1e-9)], bad)
    assert not rule.allows([Budget(1.0, 2e-5)] * 3, bad)  # delta counts as well
    left = rule.left([Budget(1.0, 1e-5)] * 3)
    assert (left.epsilon, left.delta) == pytest.approx((1.0, 1e-5))


def test_the_renyi_rule_allows_more_small_runs_than_adding_does() -> None:
    sigma = solve_noise_multiplier(epsilon=1.0, delta=1e-5, sampling_rate=0.2, steps=20)
    rule = LifetimeFilter(LIFETIME)
    allowed = 0
    while rule.allows([Budget(1.0, 1e-5)] * (allowed + 1), [train(sigma, 20 * (allowed + 1))]):
        allowed += 1
    assert allowed > 4
    # And what it allowed is within the guarantee that it prints, by the exact accountant.
    assert (rule.guarantee.epsilon, rule.guarantee.delta) == pytest.approx((4.0, 4.04e-5))
    assert epsilon([train(sigma, 20 * allowed)], rule.guarantee.delta) <= 4.0


@given(
    sigma=st.floats(0.7, 8.0),
    steps=st.integers(1, 60),
    metrics=st.integers(0, 40),
    budget=st.floats(0.3, 6.0),
)
def test_whatever_the_renyi_rule_allows_is_within_the_lifetime(
    sigma: float, steps: int, metrics: int, budget: float
) -> None:
    rule = LifetimeFilter(Budget(budget, 4e-5))
    events: list[Event] = [train(sigma, steps)]
    if metrics:
        events.append(GaussianRelease(noise_multiplier=20.0, count=metrics, partition="train", unit="record"))
    if rule.allows([Budget(99.0, 0.1)], events):
        assert epsilon(events, rule.guarantee.delta, grid=1e-3) <= budget


def test_rules_never_turn_back_to_holding() -> None:
    rule = LifetimeFilter(LIFETIME)
    held = [rule.allows([Budget(9.0, 1e-5)], [train(3.0, steps)]) for steps in range(1, 400, 7)]
    assert held == sorted(held, reverse=True)
    assert held[0]
    assert not held[-1]


def test_partitions_count_in_parallel_and_infinity_allows() -> None:
    rule = LifetimeFilter(LIFETIME)
    steps = next(n for n in range(1, 4000) if not rule.allows([Budget(9.0, 1e-5)], [train(3.0, n + 1)]))
    evaluation = GaussianRelease(noise_multiplier=9.0, count=1, partition="evaluation", unit="record")
    same = GaussianRelease(noise_multiplier=9.0, count=1, partition="train", unit="record")
    assert rule.allows([Budget(9.0, 1e-5)], [train(3.0, steps), evaluation])
    assert not rule.allows([Budget(9.0, 1e-5)], [train(3.0, steps), same])
    assert LifetimeFilter(Budget(math.inf, 0.0)).allows([Budget(math.inf, 0.0)], [train(0.1, 10_000)])
    assert not LifetimeFilter(Budget(1.0, 0.0)).allows([Budget(2.0, 1e-5)], [train(9.0, 1)])


def test_the_run_bound_is_the_plan_s_own_epsilon_and_grows_in_whole_rounds(make_plan: Any) -> None:
    plan = make_plan()
    whole = epsilon([plan.round_event()] * 5, 1e-5)
    assert run_epsilon_bound(plan, [plan.round_event()]) == whole <= 1.0
    assert run_epsilon_bound(plan, [plan.round_event()] * 6) == epsilon([plan.round_event()] * 6, 1e-5) > 1.0
    # One step beyond five rounds is counted as six rounds: the multiple is fixed by the plan.
    one_more = [*[plan.round_event()] * 5, train(plan.noise_multiplier, 1)]
    assert run_epsilon_bound(plan, one_more) == epsilon([plan.round_event()] * 6, 1e-5)
