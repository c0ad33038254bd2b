"""Sums of several participants as one: who counts how much, from public numbers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consortia.learners.blocks import deviations
from consortia.learners.sums.model import Recipe
from consortia.learners.sums.solution import Released
from consortia.learners.sums.statistics import unpacked

__all__ = ["Part", "combined", "first_of", "precision_weights"]

Array = NDArray[np.float64]
#: What a row's squared norm is on average, about: the radius is chosen so.
_ROW: Final = 1 / 1.15


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


def precision_weights(recipe: Recipe, parts: Sequence[Part]) -> list[float]:
    """Return the weight of each part, 1 for the least noisy: ``1 / (s^2 + c h)``.

    s is the deviation of its products with the target, c the variance of a row's deviation and h what a direction of an
    average part's Gram matrix holds. Equal budgets get equal weights. With unequal ones a noisy part counts less, down
    to where its noise is small beside what rows scatter anyway.
    """
    size, outcome = recipe.columns.size, recipe.outcome
    scatter = float(np.mean(outcome.variances)) * _ROW * float(np.mean([part.units for part in parts])) / size
    noise = [deviations(recipe, 2, part.multiplier)[1] ** 2 if part.multiplier else 0.0 for part in parts]
    spread = [one + scatter for one in noise]
    return [min(spread) / one for one in spread]


def first_of(parts: Sequence[Part], weights: Sequence[float]) -> tuple[Array, float]:
    """Return the weighted sum of message 1 and the units that it stands for."""
    total = np.sum([weight * part.blocks[0] for weight, part in zip(weights, parts, strict=True)], axis=0)
    return total, math.fsum(weight * part.units for weight, part in zip(weights, parts, strict=True))


def combined(recipe: Recipe, parts: Sequence[Part], weights: Sequence[float]) -> Released:
    """Return the weighted sum of message 2 with the noise in it."""
    size, directions = recipe.columns.size, recipe.outcome.directions
    both = list(zip(weights, parts, strict=True))
    noise = [deviations(recipe, 2, part.multiplier) if part.multiplier else (0.0, 0.0) for _, part in both]
    gram, slope = (
        math.sqrt(math.fsum((weight * one[block]) ** 2 for (weight, _), one in zip(both, noise, strict=True)))
        for block in (0, 1)
    )
    return Released(
        unpacked(np.sum([weight * part.blocks[0] for weight, part in both], axis=0), size),
        np.sum([weight * part.blocks[1] for weight, part in both], axis=0).reshape(size, directions),
        gram,
        slope,
        math.fsum(weight * part.units for weight, part in both),
    )
