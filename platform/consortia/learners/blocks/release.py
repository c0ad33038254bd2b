"""The blocks of a message with noise of one's own: discrete Gaussian on a public grid (`privacy.secure_noise`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from consortia.learners.blocks.recipe import BlockRecipe
from privacy.noise_context import NoiseContext
from privacy.randomness import KeyStream
from privacy.secure_noise import Grid

__all__ = ["deviations", "noised"]

Array = NDArray[np.float64]


def noised(
    recipe: BlockRecipe, message: int, blocks: Sequence[Array], multipliers: Sequence[float], context: NoiseContext
) -> list[Array]:
    """Return the blocks with noise for the charged attempt.

    Each block is its own Gaussian mechanism: its sensitivity is that of `BlockRecipe.sensitivities`, its noise
    multiplier the one of its event. All of them draw from one key stream, so no number of it serves twice.

    Parameters
    ----------
    multipliers : sequence of float
        Of the blocks' events.
    """
    stream = KeyStream(context)
    grids = _grids(recipe, message)
    return [
        grid.release(block, multiplier, stream)
        for grid, block, multiplier in zip(grids, blocks, multipliers, strict=True)
    ]


def deviations(recipe: BlockRecipe, message: int, multiplier: float) -> tuple[float, ...]:
    """Return the standard deviation of the noise in each block, for z = `multiplier` of the whole run."""
    shares = recipe.shares.of(message)
    grids = _grids(recipe, message)
    return tuple(
        multiplier / share**0.5 * grid.sensitivity * grid.step for grid, share in zip(grids, shares, strict=True)
    )


def _grids(recipe: BlockRecipe, message: int) -> list[Grid]:
    pairs = zip(recipe.sensitivities(message), recipe.lengths(message), strict=True)
    return [Grid(clip=sensitivity, dimension=length) for sensitivity, length in pairs]
