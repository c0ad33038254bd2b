"""Noise on the grid has the law that is charged, and its low bits say nothing about what it hides."""

import math

import numpy as np
import pytest
import torch
from dp_step import Linear, Model, by_hand, moved, plan, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_contexts import TEST
from numpy.typing import NDArray
from scipy.stats import chi2

from privacy import dp_sgd
from privacy._optimizer import NoisyOptimizer
from privacy.errors import PlanError
from privacy.randomness import KeyStream, fresh_generator, seeded_generator
from privacy.secure_noise import MAX_ROWS, SLACK, Grid, discrete_gaussian

torch.set_num_threads(1)


@pytest.mark.parametrize("std", [8.0, 8.3, 13.7])
def test_each_integer_has_its_probability(std: float) -> None:
    count = 400_000  # 2 % more deviation lies six deviations beyond the bound below
    drawn = discrete_gaussian(count, std, KeyStream(TEST))
    reach = int(3.5 * std)
    integers = np.arange(-reach, reach + 1)
    everything = np.arange(-int(20 * std), int(20 * std) + 1, dtype=np.float64)
    law = np.exp(-(integers.astype(float) ** 2) / (2 * std**2)) / np.exp(-(everything**2) / (2 * std**2)).sum()
    found = np.bincount(drawn[np.abs(drawn) <= reach] + reach, minlength=len(integers))
    statistic = float((((found - count * law) ** 2) / (count * law)).sum())
    assert chi2.sf(statistic, len(integers)) > 1e-7
    wrong = np.exp(-(integers.astype(float) ** 2) / (2 * (1.02 * std) ** 2))
    wrong *= law.sum() / wrong.sum()
    assert chi2.sf(float((((found - count * wrong) ** 2) / (count * wrong)).sum()), len(integers)) < 1e-7


@pytest.mark.parametrize("std", [500.0, 65536.5, 3.1e8])
def test_wide_noise_has_its_deviation_and_fills_every_low_bit(std: float) -> None:
    drawn = discrete_gaussian(100_000, std, KeyStream(TEST))
    low, high = (float(chi2.ppf(tail, len(drawn))) for tail in (1e-7, 1 - 1e-7))
    assert low < float(((drawn / std) ** 2).sum()) < high
    assert not low < float(((drawn / (1.03 * std)) ** 2).sum()) < high
    for bit in range(int(math.log2(std)) - 2):
        assert abs(float(((drawn >> bit) & 1).mean()) - 0.5) < 0.01
    assert abs(float(np.corrcoef(drawn[1:], drawn[:-1])[0, 1])) < 0.02


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 0.7, 12.0]), st.integers(1, 300))
def test_rounding_stays_within_the_sensitivity(seed: int, clip: float, dimension: int) -> None:
    generator = np.random.default_rng(seed)
    grid = Grid(clip, dimension)
    total = generator.normal(size=dimension) * clip * 50
    unit = generator.normal(size=dimension)
    unit *= clip / np.linalg.norm(unit)
    difference = np.rint((total + unit) / grid.step) - np.rint(total / grid.step)
    assert np.linalg.norm(difference) <= grid.sensitivity
    assert grid.sensitivity * grid.step <= clip * (1 + SLACK) + clip / 1024 * 1.0001
    assert math.log2(grid.step) == int(math.log2(grid.step))


def low_bits(optimizer: NoisyOptimizer, value: float) -> NDArray[np.bool_]:
    """Whether small released coordinates are finer than floats near 1, when each coordinate's sum is `value`."""
    optimizer.total = torch.full((20_000,), value, dtype=torch.float64 if optimizer._secure else torch.float32)
    optimizer.add_noise()
    released = optimizer._noisy.double().numpy()
    small = released[np.abs(released) < 0.05]
    return np.asarray(small * 2.0**24 % 1 != 0)


@pytest.mark.parametrize("secure", [False, True])
def test_low_bits_tell_data_sets_apart_only_without_secure_noise(secure: bool) -> None:
    # Mironov 2012: 1 + n is a multiple of 2^-24 wherever it lands, plain n is not. sigma = 1, C = 1.
    parameter = torch.nn.Parameter(torch.zeros(20_000))
    optimizer = NoisyOptimizer(
        torch.optim.SGD([parameter], lr=1.0),
        [parameter],
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        expected_batch_size=1.0,
        generator=fresh_generator(TEST),
        secure=secure,
    )
    nothing, one = low_bits(optimizer, 0.0).mean(), low_bits(optimizer, 1.0).mean()
    assert (nothing > 0.5 and one == 0.0) if not secure else nothing == one == 0.0


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_secure_training_has_the_claimed_noise_and_no_other(sigma: float) -> None:
    inputs, target = rows(5, 2000)
    silent = {"features": inputs["features"] * 0}
    a_plan = plan(noise_multiplier=sigma, clip=0.7, sampling_rate=0.2, declared_units=50)
    updates = [moved(Linear(2000), silent, target, torch.arange(5), a_plan, secure=True) for _ in range(5)]
    values = torch.stack(updates).double() * 10 / (sigma * 0.7)
    low, high = (float(chi2.ppf(tail, values.numel())) for tail in (1e-6, 1 - 1e-6))
    assert low < float((values**2).sum()) / (1 + 2**-9) < high
    assert not low < float((values**2).sum()) * (2 / 3) ** 2 < high


def test_secure_training_sums_what_plain_training_sums() -> None:
    inputs, target = rows()
    units = torch.tensor([0, 1, 2, 3, 4, 0, 1, 0, 0, 2, 0, 5])
    groups = [[0, 5, 7, 8, 10], [1, 6], [2, 9], [3], [4], [11]]
    wanted = by_hand(Model(), inputs, target, groups, 1.0) / 10
    got = moved(Model(), inputs, target, units, plan(noise_multiplier=0.02), secure=True)
    assert float((got - wanted).abs().max()) < 6 * 0.02 / 10


def test_the_released_sum_is_a_whole_number_of_steps() -> None:
    grid = Grid(1.0, 100)
    released = grid.release(np.random.default_rng(0).normal(size=100), 1.0, KeyStream(TEST))
    assert (released / grid.step == np.rint(released / grid.step)).all()


def test_what_secure_noise_cannot_promise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, target = rows()
    with pytest.raises(PlanError, match="fresh_generator"):
        moved(Model(), inputs, target, torch.arange(12), plan(), secure=True, generator=seeded_generator("x"))
    with pytest.raises(PlanError, match="at least 8"):
        moved(Model(), inputs, target, torch.arange(12), plan(noise_multiplier=1e-9), secure=True)
    monkeypatch.setattr(dp_sgd, "MAX_ROWS", 5)
    with pytest.raises(PlanError, match="at most 5 rows"):
        moved(Model(), inputs, target, torch.arange(12), plan(noise_multiplier=1.0), secure=True)
    assert MAX_ROWS**2 * 2.0**-53 * 2 <= SLACK  # Higham's bound, for two data sets
