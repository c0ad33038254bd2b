"""Adds noise to named blocks of numbers, each by its share of the budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from consortia.learners.shares import Blocks
from privacy.noise_context import NoiseContext
from privacy.randomness import KeyStream
from privacy.secure_noise import Grid

__all__ = ["deviations", "noised"]

Array = NDArray[np.float64]


def noised(
    rule: Blocks, message: int, blocks: Sequence[Array], multipliers: Sequence[float], context: NoiseContext
) -> list[Array]:
    """Return the blocks with noise for the charged attempt: discrete Gaussian on a public grid.

    Each block is its own Gaussian mechanism: its sensitivity is that of `Blocks.sensitivities`, its noise multiplier
    the one of its event. All of them draw from one key stream, so no number of it serves twice.

    Parameters
    ----------
    multipliers : sequence of float
        Of the blocks' events.
    """
    stream = KeyStream(context)
    grids = _grids(rule, message)
    return [
        grid.release(block, multiplier, stream)
        for grid, block, multiplier in zip(grids, blocks, multipliers, strict=True)
    ]


def deviations(rule: Blocks, message: int, multiplier: float) -> tuple[float, ...]:
    """Return the standard deviation of the noise in each block, for z = `multiplier` of the whole run."""
    shares = rule.shares.of(message)
    grids = _grids(rule, message)
    return tuple(
        multiplier / share**0.5 * grid.sensitivity * grid.step for grid, share in zip(grids, shares, strict=True)
    )


def _grids(rule: Blocks, message: int) -> list[Grid]:
    pairs = zip(rule.sensitivities(message), rule.lengths(message), strict=True)
    return [Grid(clip=sensitivity, dimension=length) for sensitivity, length in pairs]
