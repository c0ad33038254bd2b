"""Rounded noise in whole numbers has the law of the rounded continuous noise, which is what the events are counted by.

Chance of a false alarm: 1e-7 for each of some 15 comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from noise_contexts import stream
from scipy import stats

from privacy.errors import PlanError
from privacy.integer_noise import _decays, _uniform, rounded_gaussian, rounded_laplace

COUNT = 20_000


def _p(drawn: Any, law: Any) -> float:
    """Chi-square over whole numbers of which ten are expected at least, the rest together."""
    reach = np.arange(-200, 201)
    expected = len(drawn) * (law.cdf(reach + 0.5) - law.cdf(reach - 0.5))
    kept = reach[expected >= 10]
    wanted = np.append(expected[expected >= 10], len(drawn) - expected[expected >= 10].sum())
    found = np.append([(drawn == k).sum() for k in kept], (~np.isin(drawn, kept)).sum())
    wanted, found = (wanted, found) if wanted[-1] >= 1 else (wanted[:-1], found[:-1])
    return float(stats.chi2.sf((np.square(found - wanted) / wanted).sum(), len(wanted)))


@pytest.mark.parametrize("scale", ["1/3", "1", "7/2", "29/3"])
def test_laplace_noise_is_rounded_laplace_noise_and_not_the_discrete_kind(scale: str) -> None:
    b = Fraction(scale)
    drawn = rounded_laplace(COUNT, b, stream())
    assert _p(drawn, stats.laplace(scale=float(b))) > 1e-7
    assert _p(drawn, stats.laplace(scale=1.1 * float(b))) < 1e-7
    if b <= 1:  # P[0] = (1 - r) / (1 + r) with r = exp(-1 / b) there, 1 - sqrt(r) here
        r = math.exp(-1 / float(b))
        assert stats.binomtest(int((drawn == 0).sum()), COUNT, (1 - r) / (1 + r)).pvalue < 1e-7


@pytest.mark.parametrize("deviation", [0.3, 1.0, 4.7])
def test_gaussian_noise_is_rounded_gaussian_noise(deviation: float) -> None:
    drawn = rounded_gaussian(COUNT, deviation, stream())
    assert _p(drawn, stats.norm(scale=deviation)) > 1e-7
    assert _p(drawn, stats.norm(scale=1.1 * deviation)) < 1e-7


def test_large_and_tiny_noise() -> None:
    for deviation in (1e6, 2.0**48):
        assert stats.kstest(rounded_gaussian(4000, deviation, stream()) / deviation, "norm").pvalue > 1e-7
        drawn = rounded_laplace(4000, Fraction(deviation), stream()) / deviation
        assert stats.kstest(drawn, "laplace").pvalue > 1e-7
    for draw in (rounded_gaussian(50, 1e-30, stream()), rounded_laplace(50, Fraction(1e-30), stream())):
        assert not draw.any()
    for bad in (0.0, -1.0, 2.0**49, math.nan):
        with pytest.raises(PlanError, match="deviation: wanted"):
            rounded_gaussian(1, bad, stream())
    for wrong in (Fraction(0), Fraction(-1), Fraction(2**49)):
        with pytest.raises(PlanError, match="scale: wanted"):
            rounded_laplace(1, wrong, stream())


def test_whole_numbers_are_uniform_and_chances_exact() -> None:
    below = _uniform(stream())
    counts = np.bincount([below(5) for _ in range(COUNT)], minlength=5)
    assert stats.chisquare(counts).pvalue > 1e-7
    assert {below(1) for _ in range(9)} == {0}
    assert max(below(3 * 2**200) for _ in range(50)) >= 2**200
    for top, bottom in ((1, 3), (1, 1), (7, 3)):
        hits = sum(_decays(top, bottom, below) for _ in range(COUNT))
        assert stats.binomtest(hits, COUNT, math.exp(-top / bottom)).pvalue > 1e-7
    assert all(_decays(0, 1, below) for _ in range(50))


def test_the_arithmetic_is_in_whole_numbers() -> None:
    """From words that are all 0 every trial below n succeeds; no float is ever asked for a chance."""

    def never(_: object) -> float:
        raise AssertionError("a float")

    class Scale(Fraction):
        __float__: Callable[[Any], float] = never  # type: ignore[assignment]

    assert len(rounded_laplace(200, Scale(10, 3), stream())) == 200
