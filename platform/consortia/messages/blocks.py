"""The messages of a learner of noisy sums: blocks by name with their checks, and the same blocks as one vector of a
secure sum."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortia.learners.blocks.recipe import BlockRecipe
from consortia.terms.scopes import State

__all__ = ["block_noise", "check_blocks", "contribution", "in_state", "scaled", "unscaled"]

Array = NDArray[np.float64]
#: Tolerance for the rounding of a scaled sum. For 2^20 rows each number is wrong by at most 2^-32 of its scale.
_SHORT: Final = 1 - 2.0**-20


def in_state(recipe: BlockRecipe, message: int, blocks: Sequence[Array]) -> State:
    """Return the blocks of a message by name."""
    return {name: torch.from_numpy(block) for name, block in zip(recipe.names(message), blocks, strict=True)}


def contribution(blocks: Mapping[str, Tensor]) -> bytes:
    """Return a hash that identifies one contribution on both sides."""
    digest = hashlib.sha256()
    for name in sorted(blocks):
        digest.update(name.encode() + blocks[name].numpy().astype("<f8").tobytes())
    return digest.digest()


def check_blocks(recipe: BlockRecipe, message: int, blocks: Mapping[str, Tensor], longest: Sequence[float]) -> None:
    """Raise ValueError unless these are the blocks of a message: finite, and not longer than honest blocks can be.

    Parameters
    ----------
    longest : sequence of float
        Largest L2 norm of each block.
    """
    wanted = recipe.names(message)
    if set(blocks) != set(wanted):
        raise ValueError(f"sums: wanted {', '.join(wanted)}, got {', '.join(sorted(blocks))[:200] or 'none'}")
    for name, length, most in zip(wanted, recipe.lengths(message), longest, strict=True):
        block = blocks[name]
        if block.dtype != torch.float64 or tuple(block.shape) != (length,):
            raise ValueError(f"{name}: wanted float64 ({length},), got {block.dtype} {tuple(block.shape)}")
        if not bool(torch.isfinite(block).all()) or float(block.norm()) > most:
            raise ValueError(f"{name}: wanted finite numbers of norm {most:.3g} at most, got others")


def scaled(recipe: BlockRecipe, message: int, blocks: Sequence[Array], weight: float) -> Array:
    """Return the blocks as one vector of a secure sum: block i times ``weight sqrt(f_i) / sensitivity_i``.

    One unit then changes block i by at most ``weight sqrt(f_i)``. If every number has noise of standard deviation S,
    block i has the noise multiplier ``S / (weight sqrt(f_i))``. With the weight S / z this is the multiplier that is
    charged.
    """
    shares, sensitivities = recipe.shares.of(message), recipe.sensitivities(message)
    factors = [weight * _SHORT * math.sqrt(f) / s for f, s in zip(shares, sensitivities, strict=True)]
    return np.concatenate([factor * block for factor, block in zip(factors, blocks, strict=True)])


def unscaled(recipe: BlockRecipe, message: int, vector: Array) -> list[Array]:
    """Return the blocks of `scaled`, each still times its member's weight."""
    shares, sensitivities = recipe.shares.of(message), recipe.sensitivities(message)
    cuts = np.cumsum(recipe.lengths(message))[:-1]
    parts = np.split(vector, cuts)
    factors = [s / (_SHORT * math.sqrt(f)) for f, s in zip(shares, sensitivities, strict=True)]
    return [factor * part for factor, part in zip(factors, parts, strict=True)]


def block_noise(recipe: BlockRecipe, message: int, deviation: float) -> tuple[float, ...]:
    """Return the standard deviation of the noise in each block of `unscaled`, given the deviation in the vector."""
    shares, sensitivities = recipe.shares.of(message), recipe.sensitivities(message)
    return tuple(deviation * s / math.sqrt(f) for f, s in zip(shares, sensitivities, strict=True))
