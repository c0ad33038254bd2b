"""DP logistic regression: the neighbour game on the real training loop, rows that are not finite, named errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.dp_logistic import replace_noise, train_logistic
from privacy.errors import PlanError
from privacy.randomness import fresh_generator, seeded_generator
from privacy.secure_noise import Grid

CLIP = 1.0
EVIL = [math.nan, math.inf, -math.inf, 1e200, -1e200, 1e308, 1e154, 1e-320, 0.0, -0.0, 1.0, -1.0, 1e6, 3.7e9]
NUMBERS = st.one_of(st.sampled_from(EVIL), st.floats(-2, 2), st.floats(allow_nan=True, allow_infinity=True))


def _sums(
    x: NDArray[Any], y: NDArray[Any], transcript: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> list[NDArray[Any]]:
    """Return the sums before noise of every step, with the noised sums given: both neighbours see the same past."""
    seen: list[NDArray[Any]] = []

    def release(self: Grid, total: NDArray[Any], noise_multiplier: float, stream: Any) -> NDArray[Any]:
        del self, noise_multiplier, stream
        seen.append(total.copy())
        return transcript[len(seen) - 1]

    with monkeypatch.context() as patch:
        patch.setattr(Grid, "release", release)
        train_logistic(
            x, y, noise_multiplier=5.0, steps=len(transcript), generator=fresh_generator(), clip=CLIP, rate=50.0
        )
    return seen


@settings(max_examples=150)
@given(data=st.data(), n=st.integers(1, 12), d=st.integers(1, 4))
def test_replacing_a_row_moves_no_sum_by_more_than_two_clips(data: st.DataObject, n: int, d: int) -> None:
    rows = st.lists(st.lists(NUMBERS, min_size=d, max_size=d), min_size=n, max_size=n)
    x = np.array(data.draw(rows), dtype=np.float64)
    y = np.array(data.draw(st.lists(st.sampled_from([0, 1, -5, 2**40]), min_size=n, max_size=n)))
    other_x, other_y = x.copy(), y.copy()
    other_x[n // 2] = data.draw(st.lists(NUMBERS, min_size=d, max_size=d))
    other_y[n // 2] = data.draw(st.sampled_from([0, 1]))
    scale = data.draw(st.sampled_from([1.0, 1e3, 1e12]))
    transcript = np.array(data.draw(st.lists(st.lists(st.floats(-1, 1), min_size=d + 1, max_size=d + 1), min_size=2,
                                             max_size=2))) * scale  # fmt: skip
    grid = Grid(2 * CLIP, d + 1)
    bound = grid.sensitivity * grid.step
    with pytest.MonkeyPatch.context() as monkeypatch:
        left = _sums(x, y, transcript, monkeypatch)
        right = _sums(other_x, other_y, transcript, monkeypatch)
    for one, other in zip(left, right, strict=True):
        assert np.isfinite(one).all()
        assert np.linalg.norm(one - other) <= bound * (1 + 1e-12)
        assert bound <= 2 * CLIP * 1.003


def test_a_replaced_row_changes_the_other_rows_contributions_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the replaced row away from both sums: what is left is the same to the last digit."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(37, 5)), rng.integers(0, 2, 37)
    transcript = rng.normal(size=(3, 6)) * 1e9
    alone = []
    for evil in (0.3, 1e150, math.inf):
        x[7] = evil
        whole = _sums(x, y, transcript, monkeypatch)
        mine = _sums(x[[7] * 37], np.repeat(y[7], 37), transcript * 1.0, monkeypatch)
        alone.append([w - m / 37 for w, m in zip(whole, mine, strict=True)])
    for step in range(3):
        np.testing.assert_array_equal(alone[0][step], alone[1][step])
        np.testing.assert_array_equal(alone[0][step], alone[2][step])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200, 1e308])
def test_one_row_that_is_not_finite_does_not_end_training(bad: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (2000, 3))
    y = (x[:, 0] > 0).astype(int)
    x[7, 1] = bad
    weights = train_logistic(x, y, noise_multiplier=2.0, steps=30, generator=fresh_generator())
    assert np.isfinite(weights).all()
    assert weights[0] > 0.5


def test_the_noise_of_a_fresh_generator_lies_on_the_grid_and_has_the_charged_deviation() -> None:
    grid = Grid(2 * CLIP, 2)
    # One row whose gradient is zero leaves noise alone: rate z 2C / n.
    draws = np.array([
        train_logistic(np.full((1, 1), math.nan), np.zeros(1, int), noise_multiplier=3.0, steps=1,
                       generator=fresh_generator(), rate=1.0)
        for _ in range(400)
    ])  # fmt: skip
    np.testing.assert_array_equal(draws / grid.step, np.rint(draws / grid.step))
    assert np.std(draws) == pytest.approx(3.0 * grid.sensitivity * grid.step, rel=0.12)


GOOD: dict[str, Any] = {
    "x": np.zeros((3, 2)), "y": np.zeros(3, int), "noise_multiplier": 1.0, "steps": 2, "clip": 1.0, "rate": 1.0,
}  # fmt: skip
ODD: list[Any] = [None, "a", math.nan, math.inf, -1.0, 0, [], [[]], {}, object(), np.zeros((2, 2, 2)), [["SECRET"]]]


@pytest.mark.parametrize("name", sorted(GOOD))
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
def test_a_wrong_argument_is_a_named_error(name: str, odd: Any) -> None:
    said = ""
    try:
        train_logistic(**{**GOOD, name: odd}, generator=seeded_generator("x"))
    except PlanError as error:
        said = str(error)
    assert "SECRET" not in said


@pytest.mark.parametrize("name", ["epsilon", "delta", "releases"])
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
def test_a_wrong_budget_is_a_named_error(name: str, odd: Any) -> None:
    with pytest.raises(PlanError, match=name):
        replace_noise(**{"epsilon": 1.0, "delta": 1e-5, "releases": 3, name: odd})
