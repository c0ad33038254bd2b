"""Histograms with noise: the only way for a number about rows to leave besides an update.

Dwork, McSherry, Nissim & Smith, "Calibrating Noise to Sensitivity in Private Data Analysis", TCC 2006, example 1
(histograms); Balle & Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018, for the Gaussian.

Formal guarantees
-----------------
* A row falls into one cell, a unit brings at most `rows_per_unit` rows: adding or removing a unit moves the counts by
  at most that in L1 and in L2. The noise has scale `multiplier` x `rows_per_unit`; the event says so.
* Every cell gets noise of its own, empty ones too. Nothing of the result (shape, dtype, size) depends on a row.
* The noise is rounded Laplace or Gaussian noise in whole numbers (`privacy.integer_noise`): post-processing of the
  continuous mechanism that the event names. No float is added to a count, so no low bit tells it (Mironov 2012).
* It comes from a key stream of its own for this release (`privacy.randomness`), which no fork can copy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from consortia_plugins.arguments import named_arguments
from privacy.accounting import epsilon as epsilon_of
from privacy.accounting import rounded_up
from privacy.errors import PlanError
from privacy.events import GaussianRelease, LaplaceRelease
from privacy.integer_noise import rounded_gaussian, rounded_laplace
from privacy.noise_context import NoiseContext
from privacy.observation import tell
from privacy.randomness import KeyStream

__all__ = ["HistogramNoise", "noisy_histogram", "plan_noise"]

Mechanism = Literal["laplace", "gaussian"]


@dataclass(frozen=True)
class HistogramNoise:
    """The noise of one histogram, in units of its sensitivity.

    Attributes
    ----------
    mechanism : {"laplace", "gaussian"}
    multiplier : float
        Laplace: scale b over the L1 sensitivity; Gaussian: sigma over the L2 sensitivity.
    """

    mechanism: Mechanism
    multiplier: float

    def event(self, *, partition: str, unit: str, count: int = 1) -> GaussianRelease | LaplaceRelease:
        """Return what `count` histograms on one partition cost."""
        kind = LaplaceRelease if self.mechanism == "laplace" else GaussianRelease
        return kind(noise_multiplier=self.multiplier, partition=partition, unit=unit, count=count)

    def deviation(self, rows_per_unit: int) -> float:
        """Return the standard deviation of the noise in one cell."""
        return self.multiplier * rows_per_unit * (math.sqrt(2) if self.mechanism == "laplace" else 1.0)


@named_arguments(PlanError)
@lru_cache(maxsize=256)
def plan_noise(*, epsilon: float, delta: float, releases: int) -> HistogramNoise:
    """Return the noise of smaller deviation with which `releases` histograms cost at most (epsilon, delta).

    One histogram is cheapest with Laplace noise (all its cells together have sensitivity 1), many with Gaussian.
    The choice depends on public numbers only.

    Raises
    ------
    PlanError
        For a budget or a number of releases out of range.
    """
    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise PlanError(f"evaluation budget: wanted epsilon > 0 and 0 < delta < 1, got {epsilon!r} and {delta!r}")
    if releases < 1:
        raise PlanError(f"releases: wanted a whole number >= 1, got {releases!r}")

    # Laplace by basic composition, which is exact for one release; Gaussian releases are one with sigma / sqrt(n).
    found: tuple[HistogramNoise, ...] = (
        HistogramNoise("laplace", rounded_up(releases / epsilon)),
        HistogramNoise("gaussian", rounded_up(_gaussian_multiplier(epsilon, delta) * math.sqrt(releases))),
    )
    noise = min(found, key=lambda one: one.deviation(1))
    for _ in range(100):
        # The ledger counts by discretised privacy losses, which lie a little above the closed forms.
        if epsilon_of([noise.event(partition="evaluation", unit="record", count=releases)], delta) <= epsilon:
            return noise
        noise = HistogramNoise(noise.mechanism, rounded_up(noise.multiplier * 1.001))
    raise PlanError(f"evaluation budget: no noise meets epsilon {epsilon!r} at delta {delta!r}; raise it")


def _gaussian_multiplier(epsilon: float, delta: float) -> float:
    """Return the smallest sigma / sensitivity that is (epsilon, delta)-DP: Balle & Wang 2018, theorem 8."""

    # At the top it would cost every command that shows a plan half a second.
    from scipy.optimize import brentq
    from scipy.special import log_ndtr, ndtr

    def excess(sigma: float) -> float:
        low, high = 1 / (2 * sigma) - epsilon * sigma, -1 / (2 * sigma) - epsilon * sigma
        return float(ndtr(low) - math.exp(epsilon + log_ndtr(high))) - delta

    return float(brentq(excess, 1e-3, 1e6, xtol=1e-9))


@named_arguments(PlanError)
def noisy_histogram(
    cells: NDArray[np.int64],
    n_cells: int,
    unit_index: NDArray[np.int64],
    *,
    rows_per_unit: int,
    noise: HistogramNoise,
    context: NoiseContext,
) -> NDArray[np.int64]:
    """Return the counts of the cells with noise.

    Parameters
    ----------
    cells : int64 (n_rows,)
        The cell of each row; a row outside 0..n_cells-1 counts nowhere.
    unit_index : int64 (n_rows,)
        The unit of each row. A unit's rows after its first `rows_per_unit` count nowhere.
    context : NoiseContext
        The attempt that this release was charged to.

    Returns
    -------
    int64 (n_cells,)
        Negative numbers are possible: cutting them off is left to whoever reads them.
    """
    if rows_per_unit < 1 or n_cells < 1:
        raise PlanError(f"histogram: wanted rows_per_unit and n_cells >= 1, got {rows_per_unit} and {n_cells}")
    if cells.ndim != 1 or cells.shape != unit_index.shape:
        raise PlanError(f"histogram: wanted one cell and one unit a row, got {cells.shape} and {unit_index.shape}")
    inside = (cells >= 0) & (cells < n_cells) & (_place_in_unit(unit_index) < rows_per_unit)
    counts = np.bincount(cells[inside], minlength=n_cells)
    scale = Fraction(noise.multiplier) * rows_per_unit  # exact
    tell("histogram", counts, deviation=float(scale), law=noise.mechanism)
    stream = KeyStream(context)
    if noise.mechanism == "laplace":
        drawn = rounded_laplace(n_cells, scale, stream)
    else:
        drawn = rounded_gaussian(n_cells, float(scale), stream)
    noised: NDArray[np.int64] = counts + drawn
    return noised


def _place_in_unit(unit_index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each row how many rows of its unit stand before it."""
    order = np.argsort(unit_index, kind="stable")
    ordered = unit_index[order]
    first = np.searchsorted(ordered, ordered, side="left")
    place = np.empty(len(unit_index), dtype=np.int64)
    place[order] = np.arange(len(unit_index)) - first
    return place
