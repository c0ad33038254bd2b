"""What crosses in a run of a learner of noisy sums: blocks by name, checked, and as one vector of a secure sum."""

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
#: Room for the rounding of a scaled sum: of 2^20 rows, each number is off by 2^-32 of its scale at most.
_SHORT: Final = 1 - 2.0**-20


def in_state(recipe: BlockRecipe, message: int, blocks: Sequence[Array]) -> State:
    """Return the blocks of a message by name."""
    return {name: torch.from_numpy(block) for name, block in zip(recipe.names(message), blocks, strict=True)}


def contribution(blocks: Mapping[str, Tensor]) -> bytes:
    """Return a hash by which both sides know one contribution again."""
    digest = hashlib.sha256()
    for name in sorted(blocks):
        digest.update(name.encode() + blocks[name].numpy().astype("<f8").tobytes())
    return digest.digest()


def check_blocks(recipe: BlockRecipe, message: int, blocks: Mapping[str, Tensor], longest: Sequence[float]) -> None:
    """Raise ValueError unless these are the blocks of a message, finite and no longer than honest ones can be.

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

    One unit then moves block i by at most ``weight sqrt(f_i)``. Noise of one standard deviation S in every number gives
    each block the multiplier ``S / (weight sqrt(f_i))``: what is charged, where the weight is S / z.
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
    """Return the deviation of the noise in each block of `unscaled`, for that of the vector's numbers."""
    shares, sensitivities = recipe.shares.of(message), recipe.sensitivities(message)
    return tuple(deviation * s / math.sqrt(f) for f, s in zip(shares, sensitivities, strict=True))
