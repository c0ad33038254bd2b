"""Rounded Laplace and Gaussian noise in whole numbers, for releases of whole numbers: histograms and sizes.

Canonne, Kamath & Steinke, "The Discrete Gaussian for Differential Privacy", NeurIPS 2020, algorithms 1 and 2 (exact
Bernoulli and geometric numbers out of uniform whole ones).

Formal guarantees
-----------------
* A sum of whole numbers plus round(N) is round(sum + N): post-processing of the Laplace or the Gaussian mechanism, so
  the accounting of the continuous law covers it, at every order and in every composition. (The *discrete* Laplace of
  scale b is as good in pure epsilon only: at epsilon = 0 and b = 1 its delta is .46, the continuous one's .39, so that
  it would need events of its own. The discrete Gaussian likewise below some eight steps.)
* `rounded_laplace` has exactly the law of a rounded Laplace number: it computes in whole numbers of any length, and
  every uniform one is drawn by rejection. Pure epsilon is pure.
* `rounded_gaussian` rounds a discrete Gaussian on a grid of at least 2^16 steps a standard deviation: each number has
  its probability up to the factors that `privacy.secure_noise` states.
* All bits come from the attempt's own key stream.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consortia_plugins.arguments import named_arguments
from privacy.errors import PlanError
from privacy.randomness import KeyStream
from privacy.secure_noise import discrete_gaussian

__all__ = ["rounded_gaussian", "rounded_laplace"]

_BLOCK: Final = 16  # words fetched at once
_GRID_BITS: Final = 16
_LARGEST: Final = 2.0**48  # 12 deviations then still fit 53 bits


def _uniform(stream: KeyStream) -> Callable[[int], int]:
    """Return a function n -> a whole number below n, each equally likely."""
    pool, left = 0, 0

    def below(n: int) -> int:
        nonlocal pool, left
        bits = (n - 1).bit_length()
        while True:
            while left < bits:
                pool |= int.from_bytes(stream.bytes(8 * _BLOCK), "little") << left
                left += 64 * _BLOCK
            value = pool & ((1 << bits) - 1)
            pool >>= bits
            left -= bits
            if value < n:
                return value

    return below


def _decays(top: int, bottom: int, below: Callable[[int], int]) -> bool:
    """Return True with probability exp(-top / bottom) exactly (algorithm 1)."""
    whole, rest = divmod(top, bottom)
    return all(_decays_once(1, 1, below) for _ in range(whole)) and _decays_once(rest, bottom, below)


def _decays_once(top: int, bottom: int, below: Callable[[int], int]) -> bool:
    """See `_decays`; for top <= bottom."""
    k = 1
    while below(bottom * k) < top:
        k += 1
    return k % 2 == 1


@named_arguments(PlanError)
def rounded_laplace(count: int, scale: Fraction, stream: KeyStream) -> NDArray[np.int64]:
    """Return `count` independent whole numbers round(L), L of density exp(-|x| / scale) / (2 scale).

    |L| is below 1/2 with probability 1 - exp(-1 / (2 scale)); beyond, its rounded size less 1 is geometric.

    Raises
    ------
    PlanError
        For a scale that is not above 0, or so large that noise would not fit 64 bits.
    """
    if not 0 < scale <= _LARGEST:
        raise PlanError(f"scale: wanted a number in (0, 2^48], got {float(scale)!r}")
    below = _uniform(stream)
    t, s = scale.numerator, scale.denominator
    out = np.zeros(count, dtype=np.int64)
    for place in range(count):
        if not _decays(s, 2 * t, below):
            continue
        # Geometric with ratio exp(-s / t): floor((u + t v) / s), u below t with weight exp(-u / t), v with exp(-v).
        u = below(t)
        while not _decays(u, t, below):
            u = below(t)
        v = 0
        while _decays(1, 1, below):
            v += 1
        size = 1 + (u + t * v) // s
        out[place] = size if below(2) else -size
    return out


@named_arguments(PlanError)
def rounded_gaussian(count: int, deviation: float, stream: KeyStream) -> NDArray[np.int64]:
    """Return `count` independent whole numbers round(N(0, deviation^2)).

    Raises
    ------
    PlanError
        For a deviation that is not above 0, or so large that noise would not fit 64 bits.
    """
    if not 0 < deviation <= _LARGEST:
        raise PlanError(f"deviation: wanted a number in (0, 2^48], got {deviation!r}")
    finer = max(0, _GRID_BITS - math.floor(math.log2(deviation)))
    steps = discrete_gaussian(count, math.ldexp(deviation, finer), stream)
    if not finer:
        return steps
    # Half a step up where the number lies between two steps: the grid is symmetric about 0, and so are its roundings.
    finer = min(finer, 62)  # so little noise that each number is 0 either way
    tie = (1 << finer) >> 1
    return np.where(steps >= 0, (steps + tie) >> finer, -((-steps + tie) >> finer))
