"""Sums of several participants as one: who counts how much, from public numbers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Part", "added", "weights_for"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One participant's blocks of a message, as released with noise of its own.

    Attributes
    ----------
    multiplier : z of its run; 0 where it is non-private.
    units : its public number of training units.
    """

    blocks: tuple[Array, ...]
    multiplier: float
    units: float


def weights_for(noise: Sequence[float], scatter: float) -> list[float]:
    """Return the weight of each part, 1 for the least noisy: ``1 / (s^2 + scatter)``.

    Equal budgets get equal weights. With unequal ones a noisy part counts less, down to where its noise is small beside
    what rows scatter anyway.

    Parameters
    ----------
    noise : standard deviation s of the noise in a number of each part.
    scatter : variance of such a number by the rows of an average part.
    """
    spread = [one**2 + scatter for one in noise]
    return [min(spread) / one for one in spread]


def added(block: int, parts: Sequence[Part], weights: Sequence[float]) -> tuple[Array, float]:
    """Return the weighted sum of one block and the units that it stands for."""
    total = np.sum([weight * part.blocks[block] for weight, part in zip(weights, parts, strict=True)], axis=0)
    return total, math.fsum(weight * part.units for weight, part in zip(weights, parts, strict=True))
