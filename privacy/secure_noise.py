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
  z standard deviations s. Grids are so fine that s >= 512 sqrt(d): summed over all coordinates below 1e-6;
* sampling in 53-bit arithmetic: every integer within 12 s has its probability up to a factor 1 +- 2^-48 and 2^-74;
  integers beyond have probability 0, exp(-72) in total.

`x + round(N) = round(x + N)` for integer x is post-processing of the Gaussian mechanism, which is why accounting
of the continuous one carries over.
"""

import functools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consortia_plugins.arguments import named_arguments
from privacy.errors import PlanError
from privacy.observation import tell
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
_COLUMN_BITS: Final = 10
_COLUMNS: Final = 2**_COLUMN_BITS
_BLOCKS: Final = _COLUMNS - 24
_CHUNK: Final = 2**15  # fits the cache


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

    def release(self, total: NDArray[np.float64], noise_multiplier: float, stream: KeyStream) -> NDArray[np.float64]:
        """Return `total` (d,) rounded to the grid plus discrete Gaussian noise, as multiples of `step`."""
        steps = np.rint(total / self.step).astype(np.int64)
        deviation = noise_multiplier * self.sensitivity
        tell("grid", total, noised=steps * self.step, deviation=deviation * self.step)
        steps += discrete_gaussian(len(steps), deviation, stream)
        return np.asarray(steps * self.step, dtype=np.float64)


@dataclass(frozen=True)
class _Table:
    """Blocks of 2^shift integers, drawn by the alias method (Walker 1977) in proportion to their highest density."""

    shift: int
    first: int
    cut: NDArray[np.uint64]
    alias: NDArray[np.int64]


@functools.lru_cache(maxsize=64)
def _table(std: float) -> _Table:
    shift = max(0, math.ceil(math.log2(2 * _TAIL * std / _BLOCKS)))
    half = math.ceil(_TAIL * std / 2**shift) + 1
    block = np.arange(-half, half, dtype=np.int64)
    weight = np.exp(-(_nearest(block, shift).astype(np.float64) ** 2) / (2 * std * std))
    # Whole numbers from here on, so that no column is off by more than 2^-64 of itself.
    whole = [int(math.ldexp(w, 80)) for w in weight.tolist()] + [0] * (_COLUMNS - len(block))
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
    return _Table(shift, -half, columns, np.array(alias, dtype=np.int64))


def _nearest(block: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """Return the integer of each block that is closest to 0: the one of highest density."""
    return np.where(block >= 0, block << shift, ((block + 1) << shift) - 1)


@named_arguments(PlanError)
def discrete_gaussian(count: int, std: float, stream: KeyStream) -> NDArray[np.int64]:
    """Return `count` independent integers k with probability proportional to exp(-k^2 / (2 std^2)).

    Rejection sampling: a block of integers by table, one integer of the block, accepted with its density over
    the block's highest.

    Parameters
    ----------
    count : number of integers, >= 0.
    std : standard deviation in steps, >= 8 (below, accounting as a continuous Gaussian does not hold).
    stream : the attempt's own key stream.
    """
    if not (math.isfinite(std) and std >= _LEAST_STD):
        raise PlanError(f"std: wanted at least {_LEAST_STD:g} grid steps, got {std!r}")
    table = _table(std)
    out = np.empty(count, dtype=np.int64)
    filled = 0
    while filled < count:
        want = min(count - filled, _CHUNK)
        tries = want + want // 16 + 16
        first, second, third = stream.words(3 * tries).reshape(3, tries)
        column = (first >> np.uint64(64 - _COLUMN_BITS)).astype(np.int64)
        block = np.where(second < table.cut[column], column, table.alias[column]) + table.first
        value = (block << table.shift) + (first & np.uint64((1 << table.shift) - 1)).astype(np.int64)
        real, peak = value.astype(np.float64), _nearest(block, table.shift).astype(np.float64)
        odds = np.exp((peak - real) * (peak + real) / (2 * std * std))
        good = value[(third >> np.uint64(11)).astype(np.float64) * 2.0**-53 < odds][:want]
        out[filled : filled + len(good)] = good
        filled += len(good)
    return out
