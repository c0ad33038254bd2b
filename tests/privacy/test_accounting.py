"""Epsilon against closed forms, against Opacus PRV, and as the inverse of the noise solver."""

import math

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_gaussian_mechanism
from prv import prv_epsilon
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from privacy.accounting import (
    RDP_ORDERS,
    check_delta,
    epsilon,
    rdp,
    rdp_to_epsilon,
    solve_noise_multiplier,
)
from privacy.errors import PlanError, UnknownEventError
from privacy.events import Event, GaussianRelease, LaplaceRelease, NonPrivate, PoissonGaussian
from privacy.events._gaussian_losses import gaussian_losses

DELTA = 1e-5


@pytest.mark.parametrize(
    ("sigma", "rate"), [(1.0, 0.1), (0.3, 0.01), (5.0, 0.5), (0.25, 1e-6), (0.12, 0.1), (1.0, 0.999), (0.8, 1.0)]
)
@pytest.mark.parametrize("grid", [0.01, 0.0537])
def test_losses_of_all_points_at_once_are_those_of_dp_accounting(sigma: float, rate: float, grid: float) -> None:
    wanted = from_gaussian_mechanism(sigma, value_discretization_interval=grid, sampling_prob=rate)
    got = gaussian_losses(sigma, rate, grid)
    for own, other in ((got._pmf_remove, wanted._pmf_remove), (got._pmf_add, wanted._pmf_add)):
        mine, theirs = own.to_dense_pmf(), other.to_dense_pmf()
        assert (mine._lower_loss, mine._infinity_mass) == (theirs._lower_loss, theirs._infinity_mass)
        np.testing.assert_array_equal(mine._probs, theirs._probs)
    for steps in (1, 30):
        composed = (got.self_compose(steps), wanted.self_compose(steps))
        assert composed[0].get_epsilon_for_delta(DELTA) == composed[1].get_epsilon_for_delta(DELTA)


@pytest.mark.parametrize(("sigma", "rate", "steps"), [(0.3, 0.5, 100), (0.35, 0.05, 300), (0.2, 1e-4, 100_000)])
def test_a_coarser_grid_where_losses_span_much_overstates_by_less_than_a_thousandth(
    sigma: float, rate: float, steps: int
) -> None:
    told = epsilon([train(sigma, rate, steps)], DELTA)
    fine = float(train(sigma, rate, steps).pld(4e-4).get_epsilon_for_delta(DELTA))
    assert fine * (1 - 1e-5) <= told < fine * 1.001


def train(sigma: float, rate: float, steps: int, partition: str = "train", unit: str = "record") -> PoissonGaussian:
    return PoissonGaussian(noise_multiplier=sigma, sampling_rate=rate, steps=steps, partition=partition, unit=unit)


def gaussian(sigma: float, count: int = 1, partition: str = "train") -> GaussianRelease:
    return GaussianRelease(noise_multiplier=sigma, count=count, partition=partition, unit="record")


def laplace(b: float, count: int = 1) -> LaplaceRelease:
    return LaplaceRelease(noise_multiplier=b, count=count, partition="train", unit="record")


def analytic_gaussian(sigma: float, delta: float) -> float:
    """Balle & Wang 2018, *Improving the Gaussian Mechanism*, Theorem 8, solved for epsilon."""

    def excess(eps: float) -> float:
        upper = norm.cdf(0.5 / sigma - eps * sigma)
        return float(upper - math.exp(eps) * norm.cdf(-0.5 / sigma - eps * sigma) - delta)

    return float(brentq(excess, 0, 200))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 5.0, 30.0])
@pytest.mark.parametrize("delta", [1e-6, 1e-4])
def test_one_gaussian_release_equals_its_closed_form(sigma: float, delta: float) -> None:
    assert epsilon([gaussian(sigma)], delta) == pytest.approx(analytic_gaussian(sigma, delta), abs=0.01)


def test_dp_sgd_without_subsampling_is_the_gaussian_mechanism() -> None:
    wanted = analytic_gaussian(4.0 / math.sqrt(9), DELTA)
    assert epsilon([train(4.0, 1.0, 9)], DELTA) == pytest.approx(wanted, abs=0.01)


def test_one_laplace_release_equals_its_closed_form() -> None:
    # delta(eps) = 1 - exp((eps - 1/b) / 2) for eps <= 1/b.
    wanted = 1 / 2.0 + 2 * math.log(1 - 0.05)
    assert epsilon([laplace(2.0)], 0.05) == pytest.approx(wanted, abs=0.001)


@pytest.mark.parametrize(
    "events",
    [
        [train(1.0, 0.01, 1000)],
        [train(4.8, 0.16, 140)],
        [train(1.7, 0.16, 140)],
        [train(0.93, 0.01, 500)],
        [train(2.0, 1.0, 5)],
        [train(6.0, 0.1, 200), gaussian(30.0, 40)],
    ],
    ids=str,
)
def test_pld_agrees_with_opacus_prv(events: list[Event]) -> None:
    # PRV adds its error of 0.01 to the estimate on purpose; PLD does not.
    assert epsilon(events, DELTA) == pytest.approx(prv_epsilon(events, DELTA) - 0.01, abs=0.02)


def test_prv_refuses_what_it_cannot_count() -> None:
    with pytest.raises(UnknownEventError, match="Laplace"):
        prv_epsilon([laplace(1.0)], DELTA)
    assert prv_epsilon([NonPrivate(what="update", partition="train", unit="record")], DELTA) == math.inf
    assert prv_epsilon([], DELTA) == 0.0


def test_mechanisms_compose_jointly_and_not_by_adding_epsilons() -> None:
    alone = [train(1.0, 0.01, 1000)]
    metrics: list[Event] = [gaussian(30.0, 40), laplace(100.0, 20)]
    assert epsilon(alone, DELTA) == pytest.approx(1.828, abs=0.002)
    assert epsilon([*alone, *metrics], DELTA) == pytest.approx(2.018, abs=0.002)


def test_neither_order_nor_phases_change_the_sum() -> None:
    rounds: list[Event] = [*[train(1.0, 0.01, 10)] * 5, *[gaussian(30.0)] * 4]
    merged: list[Event] = [gaussian(30.0, 4), train(1.0, 0.01, 50)]
    assert epsilon(rounds, DELTA) == epsilon(merged, DELTA)


def test_partitions_compose_in_parallel() -> None:
    train_only: list[Event] = [train(1.0, 0.01, 100)]
    assert epsilon([*train_only, gaussian(30.0, 5, "evaluation")], DELTA) == epsilon(train_only, DELTA)
    assert epsilon([*train_only, gaussian(0.5, 5, "evaluation")], DELTA) == epsilon([gaussian(0.5, 5)], DELTA)


def test_edges() -> None:
    assert epsilon([], DELTA) == 0.0
    assert epsilon([train(9.0, 0.1, 9), NonPrivate(what="x", partition="evaluation", unit="record")], DELTA) == math.inf
    with pytest.raises(PlanError, match="delta"):
        epsilon([], 0.0)
    with pytest.raises(PlanError, match="one privacy unit"):
        epsilon([train(1.0, 0.1, 1), train(1.0, 0.1, 1, unit="patient_id")], DELTA)


def test_a_coarse_grid_only_over_counts() -> None:
    events = [train(1.0, 0.01, 1000)]
    fine, middle, coarse = (epsilon(events, DELTA, grid=grid) for grid in (1e-4, 1e-3, 1e-2))
    assert fine <= middle <= coarse


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"),
    [
        (1.0, 1e-4, 0.16, 140),
        pytest.param(3.0, 1e-5, 0.01, 500, marks=pytest.mark.end_to_end),
        pytest.param(8.0, 1e-5, 0.05, 50, marks=pytest.mark.end_to_end),
        (0.1, 1e-5, 0.1, 100),
        (1.0, 1e-5, 1.0, 30),
    ],
)
def test_the_solved_noise_is_the_smallest_that_meets_the_budget(
    target: float, delta: float, rate: float, steps: int
) -> None:
    sigma = solve_noise_multiplier(epsilon=target, delta=delta, sampling_rate=rate, steps=steps)
    assert epsilon([train(sigma, rate, steps)], delta) <= target
    assert epsilon([train(sigma * 0.999, rate, steps)], delta) > target


def test_the_solver_refuses_what_no_noise_can_meet() -> None:
    for target in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(PlanError, match="epsilon"):
            solve_noise_multiplier(epsilon=target, delta=DELTA, sampling_rate=0.1, steps=10)
    with pytest.raises(PlanError, match="fewer steps"):
        solve_noise_multiplier(epsilon=1e-7, delta=1e-9, sampling_rate=1.0, steps=10_000)


@pytest.mark.parametrize("delta", [0.0, 0.01, 0.5, -1e-5, math.nan])
def test_delta_must_be_below_one_over_the_units(delta: float) -> None:
    with pytest.raises(PlanError, match="delta"):
        check_delta(delta, 100)
    check_delta(0.0099, 100)


@pytest.mark.parametrize("event", [train(1.1, 0.05, 300), gaussian(3.0, 7), laplace(5.0, 30)], ids=str)
def test_renyi_bounds_are_above_pld(event: Event) -> None:
    bounds = [rdp_to_epsilon(float(r), a, DELTA) for r, a in zip(rdp([event], RDP_ORDERS), RDP_ORDERS, strict=True)]
    exact = epsilon([event], DELTA)
    assert exact <= min(bounds) <= 2 * exact


def test_renyi_divergence_of_laplace_equals_its_integral() -> None:
    b, order = 1.5, 4

    def integrand(x: float) -> float:
        return math.exp(-order * abs(x) / b + (order - 1) * abs(x - 1) / b) / (2 * b)

    value = sum(quad(integrand, low, high)[0] for low, high in ((-80, 0), (0, 1), (1, 80)))
    assert rdp([laplace(b)], (order,)) == pytest.approx(np.array([math.log(value) / (order - 1)]), rel=1e-6)
