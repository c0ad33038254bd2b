"""Message 2 of several participants as one: who counts how much, from public numbers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from consortia.learners.blocks.parts import Part, weights_for
from consortia.learners.blocks.release import deviations
from consortia.learners.sums.model import Recipe
from consortia.learners.sums.solution import Released
from consortia.learners.sums.statistics import unpacked

__all__ = ["combined", "precision_weights"]

#: What a row's squared norm is on average, about: the radius is chosen so.
_ROW: Final = 1 / 1.15


def precision_weights(recipe: Recipe, parts: Sequence[Part]) -> list[float]:
    """Return the weight of each part: ``1 / (s^2 + c h)``, see `weights_for`.

    s is the deviation of its products with the target, c the variance of a row's deviation and h what a direction of an
    average part's Gram matrix holds.
    """
    size, outcome = recipe.columns.size, recipe.outcome
    scatter = float(np.mean(outcome.variances)) * _ROW * float(np.mean([part.units for part in parts])) / size
    return weights_for(
        [deviations(recipe, 2, part.multiplier)[1] if part.multiplier else 0.0 for part in parts], scatter
    )


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
