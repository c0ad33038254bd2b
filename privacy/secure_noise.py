"""Noise on a public grid from a cryptographic generator, so that low bits carry nothing (Mironov 2012).

Floating-point noise leaks: ``fl(x + n)`` of a large x is a multiple of x's last place, so an observer tells from
the low bits of what was released which x it was (`tests/privacy/test_secure_noise.py` does it). Here what is
released is an integer number of public grid steps, sum and noise alike.

Formal guarantees
-----------------
Let f and f' be the exact clipped sums of two data sets that differ in one unit, ``|f - f'|_2 <= C``. They are
computed in float64 and rounded to the grid g; the rounded sums then differ by at most
``Grid.sensitivity = C (1 + SLACK) / g + sqrt(d)`` steps in L2 (each coordinate is moved by at most half a step, and
SLACK covers float64 summation: see `SLACK`). Noise is the discrete Gaussian on the integers with standard deviation
``sigma x Grid.sensitivity`` (Canonne, Kamath, Steinke 2020, *The Discrete Gaussian for DP*), so the mechanism is at
least as private as the Gaussian with noise multiplier sigma that is charged, up to

* the difference between a rounded and a discrete Gaussian: a log ratio of (z^2 + 1) / (24 s^2) a coordinate at
  z standard deviations s. Grids are so fine that s >= 1024 sigma sqrt(d): 1e-7 / sigma^2 over all coordinates, which
  is below 1e-6 for sigma >= 1/3 and always below a millionth of the mechanism's own mean loss 1 / (2 sigma^2). Noise of
  less than 8 steps is refused;
* sampling in 53-bit arithmetic: every integer within 3 s has its probability up to a factor 1 +- 2^-48, within 12 s
  up to a factor 1 +- 2^-43 and an additive error, which is below 2^-69 over all integers together. So from 10 s on an
  integer may have probability 0: exp(-53) in total for each number.
  `tests/privacy/test_drawn_noise.py` compares the law of the tables with exact arithmetic;
* the key stream: AES-256-CTR in place of independent uniform bits. Whoever tells 2^32 blocks of it (a million numbers a
  step, 16,384 steps) from such bits breaks AES-256, or is lucky with probability 2^-65 (Bellare, Desai, Jokipii and
  Rogaway 1997): the guarantee is computational (Mironov, Pandey, Reingold and Vadhan 2009).

`x + round(N) = round(x + N)` for integer x is post-processing of the Gaussian mechanism, which is why accounting
of the continuous one carries over.

*No number serves twice.* Numbers that are made ahead wait in the attempt's own key stream. They are handed out once,
in their order, in the process that made them, and wiped when they were added. How long drawing takes depends on the
numbers (of about one in a hundred it depends more); time is no part of a release.

How numbers are drawn
---------------------
Integers are cut into blocks of equal size, and the unit interval into 65,536 cells. A block gets as many whole cells as
its *lowest* density fills; 16 bits choose a cell, and as many as a block needs one of its integers, each equally
likely. What the densities have above that, about 1 in 100, is the law of the cells that are left: there, rejection
sampling (von Neumann 1951) from the blocks in proportion to their highest excess. The mixture of the two laws is
the discrete Gaussian, and nothing is approximated but the excess.
"""

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consortia_plugins.arguments import named_arguments
from privacy.errors import PlanError
from privacy.observation import observed, tell
from privacy.randomness import KeyStream

__all__ = ["MAX_ROWS", "SLACK", "Grid", "discrete_gaussian"]

#: Rows of one draw for which SLACK holds.
MAX_ROWS: Final = 2**20

#: Relative room for float64 arithmetic. What a unit adds is the same to the bit in both data sets, and its exact value
#: has norm C at most (`privacy.bookkeeping`); a sum of them is off by at most 2^-12 C, twice for two data sets. The
#: last 2^-13 C are for factors of 1 + 2^-50, such as the rounding of a factor c times a gradient, once for each row.
SLACK: Final = 2.0**-11 + 2.0**-13

_STEPS_OF_CLIP: Final = 1024  # C is at least 1024 sqrt(d) steps: rounding costs .1 % more noise
_LEAST_STD: Final = 8.0
_TAIL: Final = 12.0  # standard deviations
_LARGEST_STD: Final = 2.0**48
_CELLS: Final = 2**16
#: Of what fills whole cells: where blocks have no slope the rest would be so small that its rounding weighed more.
_FILLED: Final = 1 - 2.0**-7
_ROOT: Final = Fraction("2.506628274631000502415765284811045253006986740609938317")  # of 2 pi
_NOTHING: Final = np.empty(0, dtype=np.int64)
_COLUMN_BITS: Final = 10
_COLUMNS: Final = 2**_COLUMN_BITS
_BLOCKS: Final = _COLUMNS - 24
_CHUNK: Final = 2**14  # numbers that fit the cache
_AHEAD: Final = 2**15  # at most as many are made before they are asked for
_MOST: Final = 2**18  # bounds memory


@dataclass(frozen=True)
class Grid:
    """A public grid for sums of `dimension` coordinates clipped to `clip`.

    Attributes
    ----------
    step : the grid's step, a power of two (dividing by it is exact).
    sensitivity : by how many steps, in L2, one unit can move the rounded sum.
    """

    clip: float
    dimension: int

    @property
    def step(self) -> float:
        return float(2.0 ** math.floor(math.log2(self.clip / (_STEPS_OF_CLIP * math.sqrt(self.dimension)))))

    @property
    def sensitivity(self) -> float:
        return self.clip * (1 + SLACK) / self.step + math.sqrt(self.dimension)

    def release(
        self,
        total: NDArray[np.float64],
        noise_multiplier: float,
        stream: KeyStream,
        out: NDArray[np.float64] | NDArray[np.float32] | None = None,
    ) -> NDArray[Any]:
        """Return `total` (d,) rounded to the grid plus discrete Gaussian noise, as multiples of `step`.

        Parameters
        ----------
        out : where to write, float64 or float32 (which rounds what is released already); by default a new float64 (d,).
            It may be `total`.

        Raises
        ------
        PlanError
            Noise too small or too large to be drawn (`discrete_gaussian`); a sum or a step that is no usable float.
        """
        deviation, step = noise_multiplier * self.sensitivity, self.step
        table, scratch = _table(deviation), np.empty(min(len(total), _CHUNK))
        if observed():
            tell("grid", total, noised=np.rint(total / step) * step, deviation=deviation * step)
        released = np.empty(len(total)) if out is None else out
        for first in range(0, len(total), _MOST):
            noise = _take(min(_MOST, len(total) - first), table, stream)
            try:
                for start in range(0, len(noise), _CHUNK):
                    drawn = noise[start : start + _CHUNK]
                    part, steps = slice(first + start, first + start + len(drawn)), scratch[: len(drawn)]
                    np.multiply(total[part], 1 / step, out=steps)
                    np.rint(steps, out=steps)
                    if not math.isfinite(float(steps.sum())):
                        raise PlanError("total: wanted finite numbers of grid steps; nothing is released")
                    # The sum of two whole numbers in float64 is a function of the exact one: past 2^53 it rounds that.
                    steps += drawn
                    np.multiply(steps, step, out=released[part], casting="same_kind")
            finally:
                noise.fill(0)
        return released


@dataclass(frozen=True)
class _Table:
    """The law of one standard deviation, cut into blocks of 2^shift integers.

    Attributes
    ----------
    cells : (65536,), the first integer of the block of each cell; a block has as many as its lowest density fills.
    fast : cells from here on belong to no block.
    scale : the density at 0, in cells a block.
    first : number of the first block, and its column in what follows.
    full : (columns,), cells of each block.
    excess : (columns,), by how much the block's highest density is above them, in cells.
    cut, alias : the columns in proportion to `excess` (Walker 1977).
    accepted : how many of what the columns give stay.
    """

    std: float
    shift: int
    cells: NDArray[np.int32] | NDArray[np.int64]
    fast: int
    scale: float
    first: int
    full: NDArray[np.float64]
    excess: NDArray[np.float64]
    cut: NDArray[np.uint64]
    alias: NDArray[np.int64]
    accepted: float


def _density(integers: NDArray[np.int64], std: float, scale: float) -> NDArray[np.float64]:
    real = integers.astype(np.float64)
    return np.asarray(scale * np.exp(-(real * real) / (2 * std * std)))


@functools.lru_cache(maxsize=32)
def _table(std: float) -> _Table:
    if not _LEAST_STD <= std <= _LARGEST_STD:
        raise PlanError(f"std: wanted at least {_LEAST_STD:g} and at most 2^48 grid steps, got {std!r}")
    shift = max(0, math.ceil(math.log2(2 * _TAIL * std / _BLOCKS)))
    half = math.ceil(_TAIL * std / 2**shift) + 1
    block = np.arange(-half, half, dtype=np.int64)
    low, high = block << shift, ((block + 1) << shift) - 1
    # By Poisson's summation formula the densities add up to std sqrt(2 pi) (1 + 2^-1800) for std >= 8.
    scale = float(Fraction(_CELLS << shift) / (Fraction(std) * _ROOT))
    lowest, highest = (_density(np.where(block >= 0, *ends), std, scale) for ends in ((high, low), (low, high)))
    full = np.floor(lowest * (1 - 2.0**-30 if shift else _FILLED))
    excess, fast = highest - full, int(full.sum())
    cells: NDArray[Any] = np.zeros(_CELLS, dtype=np.int32 if half << shift < 2**31 else np.int64)
    cells[:fast] = np.repeat(low, full.astype(np.int64))
    cut, alias = _columns(excess)
    accepted = float((_CELLS - fast) / excess.sum())
    return _Table(std, shift, cells, fast, scale, -half, full, excess, cut, alias, accepted)


def _columns(weights: NDArray[np.float64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return columns of the alias method: one drawn evenly is kept below its cut, else another takes its place."""
    # Whole numbers from here on, so that no column is off by more than 2^-64 of itself.
    whole = [int(math.ldexp(w, 80)) for w in weights.tolist()] + [0] * (_COLUMNS - len(weights))
    full = sum(whole)
    scaled = [w * _COLUMNS for w in whole]
    cut, alias = [full] * _COLUMNS, list(range(_COLUMNS))
    small = [i for i in range(_COLUMNS) if scaled[i] < full]
    large = [i for i in range(_COLUMNS) if scaled[i] >= full]
    while small and large:
        low, high = small.pop(), large[-1]
        cut[low], alias[low] = scaled[low], high
        scaled[high] -= full - scaled[low]
        if scaled[high] < full:
            small.append(large.pop())
    columns = np.array([min((c << 64) // full, 2**64 - 1) for c in cut], dtype=np.uint64)
    return columns, np.array(alias, dtype=np.int64)


def _draw(count: int, table: _Table, stream: KeyStream) -> NDArray[Any]:
    """Return `count` numbers: of cells that belong to a block by one look, the others by rejection."""
    wide = 2 if table.shift <= 16 else table.cells.itemsize
    out = np.empty(count, dtype=table.cells.dtype)
    others: list[NDArray[np.int64]] = []
    for start in range(0, count, _CHUNK):
        part = out[start : start + _CHUNK]
        octets = stream.octets((2 + wide) * len(part))
        cell, low = octets[: 2 * len(part)].view("<u2"), octets[2 * len(part) :].view(f"<u{wide}")
        table.cells.take(cell, mode="wrap", out=part)
        low >>= 8 * wide - table.shift
        part |= low if wide == 2 else low.view(part.dtype)
        others.append(np.flatnonzero(cell >= table.fast) + start)
    other = np.concatenate(others) if len(others) != 1 else others[0]
    out[other] = _rest(len(other), table, stream)
    return out


def _take(count: int, table: _Table, stream: KeyStream) -> NDArray[Any]:
    """Return `count` numbers that nobody has had, for the caller to use and to wipe.

    A dozen calls cost more than few numbers do: whoever asks again gets them from twice as many as were made before.
    """
    stream.check()
    try:
        law, left, made = stream.ahead.pop()  # atomic: another thread finds none, and so nothing that this one has
    except IndexError:
        law, left, made = table, _NOTHING, 0
    if law is not table:
        left, made = _NOTHING, 0
    if len(left) < count:
        made = max(count, min(2 * made, _AHEAD) // count * count)
        left = _draw(made, table, stream)
    stream.ahead.append((table, left[count:], made))
    numbers: NDArray[Any] = left[:count]
    return numbers


def _rest(count: int, table: _Table, stream: KeyStream) -> NDArray[np.int64]:
    """Return `count` integers from what the densities have above the full cells of their blocks."""
    out = np.empty(count, dtype=np.int64)
    filled = 0
    while filled < count:
        want = count - filled
        tries = int((want + 6 * math.sqrt(want)) / table.accepted) + 8
        first, second, third = stream.words(3 * tries).reshape(3, tries)
        column = (first >> np.uint64(64 - _COLUMN_BITS)).astype(np.int64)
        column = np.where(second < table.cut[column], column, table.alias[column])
        value = ((column + table.first) << table.shift) + (first & np.uint64((1 << table.shift) - 1)).astype(np.int64)
        height = (third >> np.uint64(11)).astype(np.float64) * 2.0**-53 * table.excess[column]
        good = value[height < _density(value, table.std, table.scale) - table.full[column]][:want]
        out[filled : filled + len(good)] = good
        filled += len(good)
    return out


@named_arguments(PlanError)
def discrete_gaussian(count: int, std: float, stream: KeyStream) -> NDArray[np.int64]:
    """Return `count` independent integers k with probability proportional to exp(-k^2 / (2 std^2)).

    Parameters
    ----------
    count : number of integers, >= 0.
    std : standard deviation in steps, from 8 (below, accounting as a continuous Gaussian does not hold) to 2^48 (above,
        noise would not fit 53 bits).
    stream : the attempt's own key stream.
    """
    table = _table(std)
    out = np.empty(count, dtype=np.int64)
    for start in range(0, count, _MOST):
        part = out[start : start + _MOST]
        noise = _take(len(part), table, stream)
        part[:] = noise
        noise.fill(0)
    return out
