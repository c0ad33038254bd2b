"""Whole numbers modulo 2^32 or 2^64 for clipped sums, with the grid taken from the clip bound.

Formal guarantees
-----------------
Let member i clip every unit at C_i >= `smallest_clip` and sum at most D = `dimension` coordinates, and let S = `noise`
be the one number that all members share, with C_i = S / sigma_i.

* *Sensitivity.* The sum is rounded once. For neighbouring data, each coordinate of the rounded sums differs by at most
  the difference of the exact ones plus one step, so by the triangle inequality the rounded sums differ by at most
  ``C_i / step + sqrt(D) <= (1 + INFLATION) C_i / step`` in L2.
* *Noise.* Any n - t - d shares, d = `drops`, add up to ``(1 + INFLATION) S / step``, sigma_i times that bound for every
  member i.
* *Continuous accounting.* A share is at least 8 steps wide for up to 64 members that are not counted as colluders. At
  integers, the density of a sum of rounded Gaussians then is that of a Gaussian up to ``exp(-2 pi^2 64)``, and
  ``x + round(N) = round(x + N)`` for whole x is post-processing of the Gaussian mechanism.
* *Range.* Up to `rows` clipped units and 12 standard deviations of noise do not wrap. A wrap would spoil the sum, not
  the privacy: reducing modulo a constant is post-processing.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PlanError
from privacy.events.base import check_count, check_positive
from privacy.noise_context import NoiseContext
from privacy.observation import tell
from privacy.secure_sum.noise import LEAST_STD, rounded_gaussian

__all__ = ["INFLATION", "FixedPoint", "Word"]

Word = NDArray[np.unsignedinteger]

#: Relative room for rounding: the grid is so fine that sqrt(D) steps are at most this share of the clip.
INFLATION: Final = 0.01
_TAIL: Final = 12.0


@dataclass(frozen=True, kw_only=True)
class FixedPoint:
    """The public constants of the encoding; all of them follow from the contract.

    Attributes
    ----------
    noise : S, standard deviation of the noise that is left when `colluders` members subtract theirs.
    clip, smallest_clip : bounds of every member's C_i.
    dimension : coordinates that one member sums, over all scopes.
    rows : units that one sum holds at most.
    colluders : members t whose shares do not count.
    drops : members d that may be missing from a sum that opens; 0 where all or none do.
    """

    noise: float
    clip: float
    smallest_clip: float
    dimension: int
    rows: int
    colluders: int
    drops: int = 0

    def __post_init__(self) -> None:
        for name in ("noise", "clip", "smallest_clip"):
            check_positive(name, getattr(self, name))
        if self.smallest_clip > self.clip:
            raise PlanError(f"smallest_clip: wanted at most clip = {self.clip:g}, got {self.smallest_clip!r}")
        for name, least in (("dimension", 1), ("rows", 1), ("colluders", 0), ("drops", 0)):
            check_count(name, getattr(self, name), least)

    @property
    def step(self) -> float:
        """The grid: one whole number stands for that much of a gradient."""
        return min(INFLATION * self.smallest_clip / math.sqrt(self.dimension), self.noise / 64)

    def share_std(self, cohort: int) -> float:
        """Standard deviation of one member's share, in steps."""
        counted = cohort - self.colluders - self.drops
        if counted < 2:
            raise PlanError(f"cohort: wanted at least {self.colluders + self.drops + 2} members, got {cohort}")
        return self.noise / self.step * (1 + INFLATION) / math.sqrt(counted)

    def sum_std(self, cohort: int) -> float:
        """Standard deviation of the noise in the decoded sum of an honest cohort, in units of the gradient."""
        return self.share_std(cohort) * math.sqrt(cohort) * self.step

    def bits(self, cohort: int) -> int:
        """Return 32 where the sum fits, else 64."""
        largest = self.rows * self.clip / self.step + cohort / 2 + _TAIL * self.share_std(cohort) * math.sqrt(cohort)
        return 32 if largest < 2**31 else 64

    def encode(self, total: NDArray[np.float64], cohort: int, bits: int, context: NoiseContext) -> Word:
        """Return `total` (d,) on the grid plus a fresh noise share for `context`, as unsigned words of `bits`."""
        if self.share_std(cohort) < LEAST_STD:
            raise PlanError(f"cohort: wanted shares of at least {LEAST_STD:g} steps, got too many members ({cohort})")
        if not np.isfinite(total).all() or len(total) > self.dimension:
            raise PlanError(f"total: wanted at most {self.dimension} finite numbers")
        whole = np.rint(total / self.step).astype(np.int64)
        noise = rounded_gaussian(len(whole), self.share_std(cohort), context)
        deviation = self.share_std(cohort) * self.step
        tell("share", total, noised=whole * self.step, deviation=deviation, noise=noise * self.step)
        whole += noise
        return whole.astype(np.uint32 if bits == 32 else np.uint64)

    def decode(self, words: Word) -> NDArray[np.float64]:
        """Return the gradient sum that `words`, a sum without masks, stands for."""
        signed = words.view(np.int32 if words.itemsize == 4 else np.int64)
        return np.asarray(signed.astype(np.float64) * self.step)

    def largest_norm(self, clipped: float, cohort: int, dimension: int) -> float:
        """Public bound of an honest decoded sum's L2 norm: the clipped units and sqrt(d) + 4 deviations of noise."""
        rounding = self.step * cohort / 2 * math.sqrt(dimension)
        return clipped + rounding + self.sum_std(cohort) * (math.sqrt(dimension) + 4)
