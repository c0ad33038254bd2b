"""Noise of many numbers and of wide deviations: every stretch is noised, low bits are there, what was used is wiped.

Keys of comparisons are fixed, so that each says the same in every run.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
from noise_contexts import TEST
from numpy.typing import NDArray
from scipy.stats import binom, chi2, norm

from privacy import secure_noise
from privacy.errors import PlanError
from privacy.randomness import KeyStream
from privacy.secure_noise import Grid, discrete_gaussian

KEY = bytes(range(32))
LONG = 2**18 + 5  # more than is drawn at once
STRETCH = 2**14


def _right(drawn: NDArray[Any], deviation: float) -> bool:
    """Whether the squares add up to what those of as many Gaussian numbers do."""
    low, high = (float(chi2.ppf(tail, len(drawn))) for tail in (1e-7, 1 - 1e-7))
    return low < float(((drawn / deviation) ** 2).sum()) < high


def _made(stream: KeyStream) -> NDArray[Any]:
    """Return the memory in which the last numbers were made: those that were handed out, and those that wait."""
    ((_, left, _),) = stream.ahead
    memory: NDArray[Any] = left.base
    return memory


@pytest.mark.parametrize("way", ["new", "float64", "float32", "its sum"])
def test_every_stretch_of_a_long_release_is_noised(way: str) -> None:
    # Far from 0, so that a place that nobody wrote is seen.
    total, grid = 100 + np.random.default_rng(0).normal(size=LONG), Grid(1.0, LONG)
    kinds: dict[str, Any] = {"float64": np.zeros(LONG), "float32": np.zeros(LONG, np.float32)}
    rounded = np.rint(total / grid.step) * grid.step
    out = {"new": None, "its sum": total, **kinds}[way]
    released = grid.release(total, 1.0, KeyStream(TEST, KEY), out)
    assert out is None or released is out
    noise = released.astype(np.float64) - rounded
    deviation = grid.sensitivity * grid.step
    for start in range(0, LONG, STRETCH):
        assert _right(noise[start : start + STRETCH], deviation)
    assert noise[-5:].all()
    assert (noise == 0).sum() <= 30  # in float32, of numbers about 100
    whole = np.corrcoef(noise[: LONG - 5].reshape(-1, STRETCH))
    assert np.abs(whole - np.eye(len(whole))).max() < 0.05


def test_numbers_of_another_deviation_with_blocks_of_the_same_size_are_not_served() -> None:
    stream, laws = KeyStream(TEST, KEY), (1e5, 1.2e5)
    assert len({secure_noise._table(std).shift for std in laws}) == 1
    for std in (*laws, *laws):
        for _ in range(2):
            assert _right(discrete_gaussian(10_000, std, stream), std)
            assert stream.ahead[0][0] is secure_noise._table(std)
        assert len(stream.ahead[0][1]) == 10_000  # wait, and must not be served for the next deviation


WIDE = (3e6, 1.5e8, 1.7e8, 1.77e8, 1.8e8, 3e8, 1e12)


@pytest.mark.parametrize("std", WIDE)
def test_wide_numbers_have_all_their_low_bits_and_their_tails(std: float) -> None:
    count = 2**20
    drawn, shift = discrete_gaussian(count, std, KeyStream(TEST, KEY)), secure_noise._table(std).shift
    assert shift > 16  # so that low bits take more than two bytes
    assert _right(drawn, std)
    assert np.abs(drawn).max() < 7 * std
    for bit in range(shift):
        ones = int(((drawn >> bit) & 1).sum())
        # The highest of the low bits has the slope of the density: less than 1 / 64 of a block's numbers.
        room = 0 if bit < shift - 6 else count // 64
        assert min(binom.cdf(ones + room, count, 0.5), binom.sf(ones - room - 1, count, 0.5)) > 1e-7
    for start in (0, 8, shift - 14):
        found = np.bincount((drawn >> start) & 255, minlength=256)
        assert chi2.sf(float(((found - count / 256) ** 2 / (count / 256)).sum()), 255) > 1e-7
    edges = norm.ppf(np.linspace(0, 1, 501)[1:-1]) * std
    found = np.bincount(np.searchsorted(edges, drawn), minlength=500)
    assert chi2.sf(float(((found - count / 500) ** 2 / (count / 500)).sum()), 499) > 1e-7


@pytest.mark.parametrize("std", [3e6, 1.7e8, 1.8e8, 3e8])
def test_a_wide_block_has_its_slope(std: float) -> None:
    count, size = 4_000_000, 1 << secure_noise._table(std).shift
    drawn = discrete_gaussian(count, std, KeyStream(TEST, KEY))
    near = int(((drawn & (size - 1) < size // 2) == (drawn >= 0)).sum())
    edges = np.arange(0, 10 * std, size / 2)
    chance = 2 * float((norm.sf(edges[:-1:2] / std) - norm.sf(edges[1::2] / std)).sum())
    assert min(binom.cdf(near, count, chance), binom.sf(near - 1, count, chance)) > 1e-7
    assert binom.sf(near - 1, count, 0.5) < 1e-7


@pytest.mark.parametrize("std", [8.0, 1e6, *WIDE, 1.78e8, 3.5e8, 2.0**48])
def test_the_type_of_the_numbers_holds_all_of_them(std: float) -> None:
    table = secure_noise._table(std)
    kind, half = np.iinfo(table.cells.dtype), -table.first << table.shift
    assert kind.min <= -half
    assert half - 1 <= kind.max
    assert np.abs(table.cells.astype(np.int64)).max() < half


@pytest.mark.parametrize("count", [3, 1000, LONG])
def test_numbers_are_wiped_where_they_were_drawn(count: int) -> None:
    stream = KeyStream(TEST, KEY)
    for _ in range(2):
        drawn = discrete_gaussian(count, 1e5, stream)
        assert np.count_nonzero(drawn) > count - 20
        last = count % 2**18
        assert not _made(stream)[:last].any()


@pytest.mark.parametrize("place", [0, 20_000, 39_999])
def test_numbers_of_a_refused_release_are_wiped(place: int) -> None:
    stream, grid, total = KeyStream(TEST, KEY), Grid(1.0, 40_000), np.zeros(40_000)
    total[place] = math.inf
    with pytest.raises(PlanError, match="nothing is released"):
        grid.release(total, 1.0, stream)
    assert len(_made(stream)) == 40_000
    assert not _made(stream).any()


def test_threads_of_one_stream_neither_fail_nor_share() -> None:
    stream, found, failed = KeyStream(TEST), [], []

    def work() -> None:
        try:
            found.extend([discrete_gaussian(1000, 2.0**48, stream) for _ in range(300)])
        except BaseException as error:  # noqa: BLE001 (it would end the thread, and nothing else)
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(found) == 1200
    numbers = np.concatenate(found)
    # By chance one pair is equal in 1400 runs, and more than three in none.
    assert len(numbers) - len(np.unique(numbers)) <= 3
