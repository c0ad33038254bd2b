"""The audit's statistics against cases by hand, and what they must and must not find."""

from __future__ import annotations

import math

import numpy as np
import pytest

from consortia.audit import statistics
from consortia.audit.recount import recounted
from consortia.audit.reference import noise_deviation
from consortia.audit.result import ALPHA, Check, Findings, fact
from privacy.accounting import epsilon
from privacy.events import LaplaceRelease, PoissonGaussian, event_to_json
from privacy.secure_noise import Grid

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


def test_binomial_scores_are_normal_and_a_fixed_number_of_draws_is_not() -> None:
    # 4 coins at .15 and little noise: far from normal before, exactly normal after.
    drawn = RANDOM.binomial(4, 0.15, size=20_000) + 0.05 * RANDOM.normal(size=20_000)
    scores = statistics.binomial_scores(drawn, 4, 0.15, 0.05)
    assert statistics.shape_p(scores) > 1e-4
    assert statistics.size_p(scores) > 1e-4
    # P[N(0, 1) + Binomial(1, 1/2) < 1/2] = (P[N < 1/2] + P[N < -1/2]) / 2 = 1/2.
    assert statistics.binomial_scores(np.array([0.5]), 1, 0.5, 1.0)[0] == pytest.approx(0.0, abs=1e-12)
    fixed = statistics.binomial_scores(6 + 0.3 * RANDOM.normal(size=40), 12, 0.5, 0.3)
    assert statistics.size_p(fixed) < 1e-5


@pytest.mark.parametrize(("law", "scale"), [("laplace", 1.0), ("laplace", 4.0), ("gaussian", 0.7)])
def test_scores_of_rounded_noise_are_normal_and_those_of_another_size_are_not(law: str, scale: float) -> None:
    draw = RANDOM.laplace if law == "laplace" else RANDOM.normal
    noise = draw(0.0, scale, size=20_000)
    scores = statistics.rounded_scores(np.rint(noise), scale, law, RANDOM)
    assert statistics.shape_p(scores) > 1e-4
    assert statistics.size_p(scores) > 1e-4
    assert statistics.size_p(statistics.rounded_scores(np.rint(2 / 3 * noise), scale, law, RANDOM)) < 1e-9
    # So far out that a chance of 1 - p would be 1: 200 deviations still have a number.
    assert np.isfinite(statistics.rounded_scores(np.array([-200.0, 200.0]) * scale, scale, law, RANDOM)).all()


def test_products_by_the_lemma() -> None:
    # count = 8, sum 6: sqrt(16 t) + t = 6 at sqrt(t) = -2 + sqrt(10); chained: 4 s + 2 s^2 = 6 at s = 1.
    assert statistics.products_p(np.full(8, 0.75)) == pytest.approx(2 * math.exp(-((math.sqrt(10) - 2) ** 2)))
    assert statistics.products_p(np.full(8, -0.75), chained=True) == pytest.approx(2 * math.exp(-1))
    draws = RANDOM.normal(size=(4000, 30))
    chained = [statistics.products_p(row[1:] * row[:-1], chained=True) for row in draws]
    assert np.mean(np.array(chained) < 0.01) < 0.01


def test_the_size_of_secure_noise_by_hand() -> None:
    # C = 1, d = 4: g = 2^floor(log2(1 / 2048)) = 2^-11; C (1 + 2^-11 + 2^-13) + 2^-11 x 2, times sigma 2.
    assert noise_deviation(2.0, 1.0, 4, "secure") == 2 * (1 + 2**-11 + 2**-13 + 2**-10)
    assert noise_deviation(2.0, 3.0, 4, "float") == 6.0
    grid = Grid(0.7, 37)
    assert noise_deviation(1.3, 0.7, 37, "secure") == pytest.approx(1.3 * grid.sensitivity * grid.step)


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
    # Pure epsilon 1 / b: 1 + 1/2 in all, up to the grid of the count; delta only lowers it.
    laplace = [
        event_to_json(LaplaceRelease(noise_multiplier=b, partition="evaluation", unit="record")) for b in (1.0, 2.0)
    ]
    assert recounted(laplace, 1e-12) == pytest.approx(1.5, abs=1e-2)
    assert recounted([{"kind": "non_private"}], 1e-5) == math.inf
