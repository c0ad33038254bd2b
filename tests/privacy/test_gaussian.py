"""Many Gaussians from the key stream have the law that is charged; few come from torch."""

import math

import numpy as np
import pytest
import torch
from noise_contexts import TEST
from numpy.typing import NDArray
from scipy.stats import chi2, kstest, norm

from privacy import _gaussian
from privacy._gaussian import fill_normal
from privacy.randomness import KeyStream, fresh_generator, seeded_generator

MANY = 400_001  # pieces, and a last one that is odd


class Fixed(KeyStream):
    """Replaces the cipher: the same two 32-bit words again and again, radii first."""

    def __init__(self, radius: int, angle: int) -> None:
        super().__init__(TEST)
        self._pair = radius, angle

    def words(self, count: int) -> NDArray[np.uint64]:
        return np.repeat(np.array(self._pair, dtype=np.int32), count).view(np.uint64)


def drawn(deviation: float = 1.0, count: int = MANY) -> NDArray[np.float64]:
    out = torch.full((count,), math.nan)
    fill_normal(out, deviation, fresh_generator(TEST))
    return out.double().numpy()


@pytest.mark.parametrize(
    ("radius", "angle", "first", "second"),
    [
        (2**30, 2**30, 0.0, math.sqrt(2 * math.log(2))),  # u = 1/2: sqrt(-2 log 1/2), at pi 2^30 / 2^31 = a right angle
        (2**30, 0, math.sqrt(2 * math.log(2)), 0.0),
        (-(2**29), -(2**30), 0.0, -math.sqrt(2 * math.log(4))),  # the sign of u does not count: |u| = 1/4
        (0, 0, math.sqrt(62 * math.log(2)), 0.0),  # the longest radius, u = 2^-31: finite
        (2**31 - 1, 0, 0.0, 0.0),  # u = 1
    ],
)
def test_two_words_become_the_two_numbers_of_the_formula(radius: int, angle: int, first: float, second: float) -> None:
    out = np.empty(2, dtype=np.float32)
    _gaussian._box_muller(out, 2.5, Fixed(radius, angle))
    np.testing.assert_allclose(out, [2.5 * first, 2.5 * second], rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("deviation", [1.0, 3e-12, 7e9])
def test_the_law_and_the_deviation_are_those_asked_for(deviation: float) -> None:
    noise = drawn(deviation) / deviation
    assert kstest(noise, norm.cdf).pvalue > 1e-7
    low, high = (float(chi2.ppf(tail, MANY)) for tail in (1e-7, 1 - 1e-7))
    assert low < float((noise**2).sum()) < high
    assert not low < float(((noise / 1.02) ** 2).sum()) < high
    for reach in (3.0, 4.0):  # two-sided tails, 1080 and 25 of them
        expected = 2 * norm.sf(reach) * MANY
        assert abs(float((np.abs(noise) > reach).sum()) - expected) < 6 * math.sqrt(expected)


def test_numbers_of_a_pair_a_piece_and_two_calls_are_unrelated() -> None:
    piece = 2 * _gaussian._PAIRS
    noise, other = drawn(), drawn()
    limit = 6 / math.sqrt(piece // 2)
    half = piece // 2
    for left, right in (
        (noise[:half], noise[half:piece]),  # cosine and sine of one angle, on one radius
        (noise[:half], noise[piece : piece + half]),
        (noise[: piece - 1], noise[1:piece]),
        (noise, other),
    ):
        for function in (np.asarray, np.square, np.abs):
            assert abs(float(np.corrcoef(function(left), function(right))[0, 1])) < limit


def test_few_seeded_and_float64_numbers_are_torchs_own() -> None:
    few = torch.empty(_gaussian._PAIRS)
    generator = fresh_generator(TEST)
    generator.set_state(seeded_generator("few").get_state())
    fill_normal(few, 2.0, generator)
    assert torch.equal(few, torch.empty_like(few).normal_(0, 2.0, generator=seeded_generator("few")))
    for dtype in (torch.float32, torch.float64):
        many = torch.empty(MANY, dtype=dtype)
        fill_normal(many, 2.0, seeded_generator("many"))
        assert torch.equal(many, torch.empty_like(many).normal_(0, 2.0, generator=seeded_generator("many")))


@pytest.mark.parametrize("shape", [(1, MANY), (MANY // 4, 4)])
def test_every_coordinate_of_a_tensor_is_filled(shape: tuple[int, int]) -> None:
    out = torch.full(shape, math.nan)
    fill_normal(out, 1.0, fresh_generator(TEST))
    assert bool(out.isfinite().all())
    assert len(out.unique()) > 0.9 * out.numel()
