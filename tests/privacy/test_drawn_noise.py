"""How noise on the grid is drawn: the law of the tables in exact arithmetic, and that no number serves twice.

Keys of comparisons are fixed, so that each says the same in every run.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from noise_contexts import TEST
from numpy.typing import NDArray
from scipy.stats import binom, chi2, norm

from privacy import secure_noise
from privacy.errors import PlanError
from privacy.randomness import KeyStream, fresh_generator
from privacy.sampling import poisson_sample
from privacy.secure_noise import Grid, discrete_gaussian

KEY = bytes(range(32))
ROOT = Decimal("2.506628274631000502415765284811045253006986740609938317")  # of 2 pi
STDS = (8.0, 20.3, 41.6, 41.7, 131216.00781, 1.7e6, 2.0**30 * 1.3, 2.0**48)


def _columns(table: Any) -> list[Fraction]:
    """The chance of each block by the alias method, as whole numbers of 2^-64 columns."""
    chances = [0] * len(table.cut)
    for place, (cut, alias) in enumerate(zip(table.cut.tolist(), table.alias.tolist(), strict=True)):
        chances[place] += cut
        chances[alias] += 2**64 - cut
    return [Fraction(chance, len(chances) << 64) for chance in chances]


def _proportional(table: Any) -> list[Fraction]:
    """The chance of each block that the alias method is to give, for the tables' own floats."""
    excess = [Fraction(e) for e in table.excess.tolist()]
    whole = sum(excess)
    return [e / whole for e in excess] + [Fraction(0)] * (len(table.cut) - len(excess))


def _added(table: Any) -> float:
    """At most by how much the chances of all integers together are off since columns have 64 bits."""
    rest = Fraction(len(table.cells) - table.fast)
    accepted = rest / sum(Fraction(e) for e in table.excess.tolist())
    off = sum(abs(a - b) for a, b in zip(_columns(table), _proportional(table), strict=True))
    return float(rest / len(table.cells) / accepted * off)


def _law(table: Any, integers: NDArray[np.int64]) -> list[Fraction]:
    """The exact chance of each integer: of words that are uniform, and of the tables' and thresholds' own floats.

    What the alias method's columns are off is left to `_added`.
    """
    size, column = 1 << table.shift, (integers >> table.shift) - table.first
    columns = _proportional(table)
    height = secure_noise._density(integers, table.std, table.scale) - table.full[column]
    stays = [
        Fraction(math.ceil(min(Fraction(1), max(Fraction(0), Fraction(h) / Fraction(e))) * 2**53), 2**53)
        for h, e in zip(height.tolist(), table.excess[column].tolist(), strict=True)
    ]
    cells = len(table.cells)
    rest = Fraction(cells - table.fast, cells)
    # All densities add up to as many cells as there are (Poisson's summation formula), so the excess to those left.
    accepted = (cells - table.fast) / sum(Fraction(e) for e in table.excess.tolist())
    return [
        Fraction(int(table.full[c])) / (cells * size) + rest * columns[c] * stay / (size * accepted)
        for c, stay in zip(column.tolist(), stays, strict=True)
    ]


def _off(table: Any, integers: NDArray[np.int64]) -> tuple[float, float]:
    """By which factor of itself an integer's chance is off at most: within 3 deviations, and within 12."""
    worst = [0.0, 0.0]
    with localcontext() as context:
        context.prec = 60
        std = Decimal(table.std)
        for k, chance in zip(integers.tolist(), _law(table, integers), strict=True):
            wanted = (-(Decimal(k) ** 2) / (2 * std * std)).exp() / (std * ROOT)
            found = Decimal(chance.numerator) / Decimal(chance.denominator)
            off = float(abs(found - wanted) / wanted)
            if abs(k) <= 12 * table.std:
                worst[abs(k) > 3 * table.std] = max(worst[abs(k) > 3 * table.std], off)
    return worst[0], worst[1]


def _places(table: Any) -> NDArray[np.int64]:
    """Both ends of every 37th block, and an integer between them."""
    low = (np.arange(0, len(table.excess), 37) + table.first) << table.shift
    size = 1 << table.shift
    return np.unique(
        np.concatenate([low, low + size - 1, low + np.random.default_rng(0).integers(size, size=len(low))])
    )


@pytest.mark.parametrize("std", STDS)
def test_the_law_of_the_tables_is_the_discrete_gaussian(std: float) -> None:
    table = secure_noise._table(std)
    assert 2**-8 < 1 - table.fast / len(table.cells) < 0.02  # as many take the slow way
    middle, far = _off(table, _places(table))
    assert middle < 2.0**-48
    assert far < 2.0**-43
    assert _added(table) < 2.0**-69
    assert len(table.excess) <= len(table.cut)
    assert -table.first << table.shift > 12 * std  # so that what is cut off is exp(-72)


@pytest.mark.parametrize("std", [8.0, 41.7, 1.7e6])
def test_tables_that_are_a_little_wrong_are_seen(std: float) -> None:
    wider = secure_noise._table.__wrapped__(std * (1 + 2.0**-40))
    object.__setattr__(wider, "std", std)
    assert max(_off(wider, _places(wider))) > 2.0**-43


@pytest.mark.parametrize("std", [84.5, 131216.0])
def test_a_block_has_its_slope_and_blocks_their_sizes(std: float) -> None:
    """The share of integers in the half of their block that is nearer to 0, which the slow way alone makes."""
    count = 4_000_000
    drawn, table = discrete_gaussian(count, std, KeyStream(TEST, KEY)), secure_noise._table(std)
    size = 1 << table.shift
    inside = (drawn & (size - 1)) < size // 2
    near = int((inside == (drawn >= 0)).sum())
    every = np.arange(0, math.ceil(10 * std))
    weights = np.exp(-(every.astype(float) ** 2) / (2 * std * std))
    # A negative number k stands where -k - 1 does: weights of |k| >= 1.
    first = (every & (size - 1)) < size // 2
    half = float(weights[first].sum() + weights[1:][first[:-1]].sum())
    chance = half / float(weights.sum() + weights[1:].sum())
    assert min(binom.cdf(near, count, chance), binom.sf(near - 1, count, chance)) > 1e-7
    assert min(binom.cdf(near, count, 0.5), binom.sf(near - 1, count, 0.5)) < 1e-7
    edges = norm.ppf(np.linspace(0, 1, 501)[1:-1]) * std
    some = drawn[:400_000] + np.random.default_rng(1).random(400_000) - 0.5
    found = np.bincount(np.searchsorted(edges, some), minlength=500)
    assert chi2.sf(float(((found - 800) ** 2 / 800).sum()), 499) > 1e-7


def test_tails_beyond_four_deviations_are_as_many_as_they_should_be() -> None:
    count = 4_000_000
    drawn = np.abs(discrete_gaussian(count, 1000.0, KeyStream(TEST, KEY)))
    for far in (4, 4.5, 5):
        chance = 2 * float(norm.sf((far * 1000 - 0.5) / 1000))
        seen = int((drawn >= far * 1000).sum())
        assert min(binom.cdf(seen, count, chance), binom.sf(seen - 1, count, chance)) > 1e-7


def test_no_number_serves_twice() -> None:
    """Steps of one attempt, made ahead by twos, fours and eights, with other draws of the stream between them."""
    generator = fresh_generator(TEST)
    wide, narrow = [], []
    for step in range(40):
        wide.append(discrete_gaussian(512, 1e5, generator.stream))
        poisson_sample(100, 0.1, generator)
        if step % 3 == 0:
            narrow.append(discrete_gaussian(300, 2e5, generator.stream))
    for steps in (wide, narrow):
        # Two independent numbers are equal with the chance 1 / (2 sqrt(pi) std) < 3e-6.
        equal = [int((one == other).sum()) for place, one in enumerate(steps) for other in steps[:place]]
        assert max(equal) <= 4


def test_numbers_made_ahead_for_one_deviation_serve_no_other() -> None:
    stream = KeyStream(TEST)
    for _ in range(2):
        discrete_gaussian(100, 8.0, stream)
    assert np.abs(discrete_gaussian(100, 1e6, stream)).max() > 1e5
    assert np.abs(discrete_gaussian(100, 8.0, stream)).max() < 97


def test_numbers_that_were_handed_out_are_wiped_where_they_were_made() -> None:
    stream, grid = KeyStream(TEST), Grid(1.0, 1000)
    for _ in range(2):
        grid.release(np.zeros(1000), 1.0, stream)
    ((_, left, made),) = stream.ahead
    assert (len(left), made) == (1000, 2000)
    assert not left.base[:1000].any()
    assert left.all() or (left == 0).sum() < 5
    for shown in (repr(stream), str(stream), f"{fresh_generator(TEST)!r}"):
        assert not any(str(number) in shown for number in left[np.abs(left) > 1000].tolist())


def test_threads_of_one_stream_get_numbers_of_their_own() -> None:
    stream, table, found = KeyStream(TEST), secure_noise._table(1e5), []

    def work() -> None:
        found.extend([secure_noise._take(257, table, stream) for _ in range(50)])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    places = sorted(one.__array_interface__["data"][0] for one in found)
    assert len(found) == 400
    assert all(after - before >= 257 * 4 for before, after in itertools.pairwise(places))
    assert len({one.tobytes() for one in found}) == 400


def test_numbers_made_ahead_do_not_cross_a_fork() -> None:
    stream = KeyStream(TEST)
    for _ in range(2):
        discrete_gaussian(100, 1e5, stream)
    assert len(stream.ahead[0][1]) == 100
    child = os.fork()
    if child == 0:
        try:
            discrete_gaussian(100, 1e5, stream)
        except PlanError as error:
            os._exit(7 if "fork" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_release_in_float32_is_the_rounded_one_and_may_lie_over_its_sum() -> None:
    key, total = bytes(32), np.random.default_rng(0).normal(size=40_000) * 50
    grid = Grid(1.0, len(total))
    wanted = grid.release(total, 1.0, KeyStream(TEST, key))
    small = np.empty(len(total), dtype=np.float32)
    assert grid.release(total, 1.0, KeyStream(TEST, key), small) is small
    assert (small == wanted.astype(np.float32)).all()
    over = total.copy()
    grid.release(over, 1.0, KeyStream(TEST, key), over)
    assert (over == wanted).all()


@pytest.mark.parametrize("count", [1, 3, 2**14 - 1, 2**14 + 1, 2**18 + 5])
def test_any_count_is_served_and_the_last_number_is_noise(count: int) -> None:
    stream = KeyStream(TEST)
    for _ in range(3):
        drawn = discrete_gaussian(count, 1e6, stream)
        assert len(drawn) == count
        assert np.count_nonzero(drawn) >= count - 5
    assert len(discrete_gaussian(0, 1e6, stream)) == 0


def test_noise_that_does_not_fit_and_sums_that_are_no_numbers_are_refused() -> None:
    for std in (7.999, 2.0**48 * 1.001, math.inf, math.nan, -9.0):
        with pytest.raises(PlanError, match="std: wanted"):
            discrete_gaussian(1, std, KeyStream(TEST))
    grid = Grid(1.0, 4)
    for sigma in (1e-3, 1e12):
        with pytest.raises(PlanError, match="std: wanted"):
            grid.release(np.zeros(4), sigma, KeyStream(TEST))
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(PlanError, match="nothing is released") as raised:
            grid.release(np.array([0.0, bad, 0.0, 0.0]), 1.0, KeyStream(TEST))
        assert str(bad) not in str(raised.value)


def test_the_widest_noise_is_right() -> None:
    drawn = discrete_gaussian(100_000, 2.0**48, KeyStream(TEST, KEY)).astype(float) / 2.0**48
    low, high = (float(chi2.ppf(tail, len(drawn))) for tail in (1e-7, 1 - 1e-7))
    assert low < float((drawn**2).sum()) < high
    released = Grid(1.0, 100).release(np.full(100, 0.25), 1e9, KeyStream(TEST))
    assert np.isfinite(released).all()
    assert 0.4e9 < float(released.std()) < 2e9
