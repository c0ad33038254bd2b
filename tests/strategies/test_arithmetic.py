"""Aggregation arithmetic against cases worked by hand, and laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies.arithmetic import capped_weights, difference, step, weighted_mean


def test_weighted_mean_by_hand() -> None:
    # (1 x 1 + 3 x 5) / 4 = 4, (1 x 2 + 3 x 6) / 4 = 5
    mean = weighted_mean([{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([5.0, 6.0])}], [1, 3])
    assert mean["w"].tolist() == [4.0, 5.0]


def test_integer_and_boolean_buffers_keep_their_dtype() -> None:
    # (2 + 5) / 2 = 3.5 rounds to the even 4; two of three votes win
    states = [
        {"n": torch.tensor(2), "b": torch.tensor([True, False])},
        {"n": torch.tensor(5), "b": torch.tensor([True, True])},
    ]
    mean = weighted_mean(states, [0.5, 0.5])
    assert mean["n"].dtype == torch.int64
    assert mean["n"].item() == 4
    assert mean["b"].dtype == torch.bool
    assert mean["b"].tolist() == [True, False]


def test_large_integers_keep_every_digit() -> None:
    states = [{"n": torch.tensor(2**60 + offset)} for offset in (1, 3)]
    assert weighted_mean(states, [0.5, 0.5])["n"].item() == 2**60 + 2


def test_means_run_in_the_updates_precision() -> None:
    # 1e8 + 1 - 1e8: float64 has digits for the 1; float32's mean is off by at most 2^-22 of the largest value.
    values = (1e8, 1.0, -1e8)
    doubles = [{"w": torch.tensor([v], dtype=torch.float64)} for v in values]
    assert weighted_mean(doubles, [1, 1, 1])["w"].item() == pytest.approx(1 / 3, rel=1e-6)
    floats = [{"w": torch.tensor([v])} for v in values]
    assert weighted_mean(floats, [1, 1, 1])["w"].item() == pytest.approx(1 / 3, abs=1e8 * 2**-22)


@pytest.mark.parametrize(
    ("states", "weights", "what"),
    [
        ([], [], "one weight per state"),
        ([{"w": torch.ones(1)}], [0.0], "finite sum"),
        ([{"w": torch.ones(1)}], [float("nan")], "finite sum"),
        ([{"w": torch.ones(1)}, {"v": torch.ones(1)}], [1, 1], "same parameter names"),
        ([{"w": torch.ones(1)}, {"w": torch.ones(2)}], [1, 1], "one shape"),
    ],
)
def test_weighted_mean_refuses(states: list[dict[str, torch.Tensor]], weights: list[float], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        weighted_mean(states, weights)


def test_cap_by_hand() -> None:
    # Sizes 8, 1, 1 with cap .5: the first gets .5, the others share .5 equally.
    assert capped_weights([8, 1, 1], 0.5) == [0.5, 0.25, 0.25]
    # A claim of 1e12 rows gains nothing beyond the cap.
    assert capped_weights([1e12, 1, 1], 0.5)[0] == 0.5
    # Two participants and cap .5: only equal weights fit.
    assert capped_weights([9, 1], 0.5) == [0.5, 0.5]


@given(
    st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=20),
    st.floats(0.05, 1.0),
)
def test_capped_weights_law(sizes: list[float], cap: float) -> None:
    weights = capped_weights(sizes, cap)
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0
    assert max(weights) <= max(cap, 1 / len(sizes)) * (1 + 1e-9)


@pytest.mark.parametrize("sizes", [[], [0.0], [-1.0, 2.0], [float("nan")], [float("inf"), 1.0]])
def test_capped_weights_refuses(sizes: list[float]) -> None:
    with pytest.raises(ValueError, match="sizes"):
        capped_weights(sizes, 0.5)


def test_step_and_difference() -> None:
    current = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}
    gradient = {"w": torch.tensor([10.0, -10.0]), "n": torch.tensor(7)}
    moved = step(current, gradient, 0.1)
    assert moved["w"].tolist() == pytest.approx([0.0, 3.0])
    assert moved["n"].item() == 7
    assert difference(current, moved)["w"].tolist() == pytest.approx([1.0, -1.0])
