"""The audit's statistics against cases by hand, and what they must and must not find."""

from __future__ import annotations

import math

import numpy as np
import pytest

from consortia.audit import statistics
from consortia.audit.recount import recounted
from consortia.audit.result import ALPHA, Check, Findings, fact
from privacy.accounting import epsilon
from privacy.events import PoissonGaussian, event_to_json

RANDOM = np.random.default_rng(3)


def test_ten_right_guesses_of_ten_coins_at_epsilon_zero() -> None:
    # P[Binomial(10, 1/2) >= 10] = 2^-10.
    assert statistics.guesses_p(10, 10, 10, 0.0, 0.0) == pytest.approx(2**-10)


def test_delta_adds_what_the_theorem_says() -> None:
    # m = r = v = 1, epsilon = 0: P[B >= 1] = 1/2, (P[B >= 0] - P[B >= 1]) / 1 = 1/2, so 1/2 + 2 x 1 x delta x 1/2.
    assert statistics.guesses_p(1, 1, 1, 0.0, 0.01) == pytest.approx(0.51)
    # r = v = 2: P[B >= 2] = 1/4; i = 1: 3/4 - 1/4 = 1/2, i = 2: (1 - 1/4) / 2 = 3/8. With m = 3: 1/4 + 6 delta / 2.
    assert statistics.guesses_p(3, 2, 2, 0.0, 0.01) == pytest.approx(0.25 + 6 * 0.01 * 0.5)


@pytest.mark.parametrize(("count", "level"), [(10, 0.05), (100, 0.001), (200, 0.001)])
def test_all_guesses_right_bounds_epsilon_as_in_closed_form(count: int, level: float) -> None:
    # delta = 0: sigmoid(epsilon)^count = level, so epsilon = log(x / (1 - x)) with x = level^(1 / count).
    x = level ** (1 / count)
    found = statistics.epsilon_lower_bound(count, count, count, 0.0, level)
    assert found == pytest.approx(math.log(x / (1 - x)), abs=1e-6)


def test_guesses_no_better_than_chance_bound_nothing() -> None:
    assert statistics.epsilon_lower_bound(100, 100, 50, 1e-5, 0.001) == 0.0
    with pytest.raises(ValueError, match="correct <= guesses"):
        statistics.guesses_p(10, 5, 6, 1.0, 0.0)


def test_the_laws_are_quiet_on_honest_noise() -> None:
    """100 times: the smallest chance of four laws is below 1e-3 in few of them."""
    low = 0
    for _ in range(100):
        noise = RANDOM.normal(size=(5, 16))
        checks = [statistics.size_p(noise), statistics.mean_p(noise), statistics.shape_p(noise)]
        low += min([*checks, statistics.alike_p(noise)]) < 0.001 / 4
    assert low <= 2  # 0.1 expected; more than 2 has chance 2e-4


@pytest.mark.parametrize("factor", [0.1, 2 / 3, 1.5])
def test_a_wrong_size_is_found(factor: float) -> None:
    assert statistics.size_p(factor * RANDOM.normal(size=(15, 20))) < 1e-9


@pytest.mark.parametrize("change", ["same", "negative", "shifted", "part"])
def test_reused_noise_is_found(change: str) -> None:
    noise = RANDOM.normal(size=(8, 40))
    noise[5] = {
        "same": noise[2],
        "negative": -noise[2],
        "shifted": np.concatenate([noise[2, 3:], noise[5, :3]]),
        "part": 0.95 * noise[2] + math.sqrt(1 - 0.95**2) * noise[5],
    }[change]
    assert statistics.alike_p(noise) < 1e-4


def test_a_noise_of_another_shape_is_found() -> None:
    uniform = RANDOM.uniform(-math.sqrt(3), math.sqrt(3), size=(60, 40))
    assert statistics.shape_p(uniform) < 1e-5


def test_a_fixed_number_of_draws_is_no_binomial() -> None:
    # 40 releases, variance a fifth of the Binomial's.
    squares = float(np.square(math.sqrt(0.2) * RANDOM.normal(size=40)).sum())
    assert statistics.dispersion_p(squares, 40, -0.05) < 1e-5
    assert statistics.dispersion_p(40.0, 40, -0.05) > 0.1


def test_a_threshold_is_shared_by_the_checks_that_chance_decides() -> None:
    checks = [Check("law", "who", "", "", p) for p in (0.3, 0.0004, 1.0, 0.9)]
    findings = Findings("noise", [*checks, fact("fact", "who", True)])
    assert findings.threshold == ALPHA / 4
    assert not findings.violations
    findings.checks.append(fact("fact", "who", False))
    assert [check.law for check in findings.violations] == ["fact"]
    assert Check("law", "who", "", "", math.nan).p == 0.0  # no number is no excuse


def test_the_recount_is_the_ledgers_epsilon() -> None:
    event = PoissonGaussian(noise_multiplier=2.0, sampling_rate=0.5, steps=3, partition="train", unit="record")
    assert recounted([event_to_json(event)] * 2, 1e-5) == pytest.approx(epsilon([event, event], 1e-5), abs=1e-3)
    assert recounted([], 1e-5) == 0.0
    assert recounted([{"kind": "non_private"}], 1e-5) == math.inf
