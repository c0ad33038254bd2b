"""What crosses in a run of the learner `sums`: names and shapes of the blocks, and what the last message brings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortia.learners.shares import Blocks
from consortia.learners.sums.model import Recipe
from consortia.learners.sums.solution import Released
from consortia.learners.sums.statistics import packed, unpacked
from consortia.terms.scopes import State

__all__ = [
    "NO_PART",
    "OwnPart",
    "ToHome",
    "block_noise",
    "check_blocks",
    "contribution",
    "in_state",
    "scaled",
    "split",
    "unscaled",
]

Array = NDArray[np.float64]
#: The key of no contribution.
NO_PART: Final = bytes(32)
_GRAM, _SLOPE, _ABOUT, _OWN = "sums/gram", "sums/slope", "sums/about", "sums/own"
#: Room for the rounding of a scaled sum: of 2^20 rows, each number is off by 2^-32 of its scale at most.
_SHORT: Final = 1 - 2.0**-20


def in_state(rule: Blocks, message: int, blocks: Sequence[Array]) -> State:
    """Return the blocks of a message by name."""
    return {name: torch.from_numpy(block) for name, block in zip(rule.names(message), blocks, strict=True)}


def contribution(blocks: Mapping[str, Tensor]) -> bytes:
    """Return a hash by which both sides know one contribution again."""
    digest = hashlib.sha256()
    for name in sorted(blocks):
        digest.update(name.encode() + blocks[name].numpy().astype("<f8").tobytes())
    return digest.digest()


def check_blocks(rule: Blocks, message: int, blocks: Mapping[str, Tensor], longest: Sequence[float]) -> None:
    """Raise ValueError unless these are the blocks of a message, finite and no longer than honest ones can be.

    Parameters
    ----------
    longest : sequence of float
        Largest L2 norm of each block.
    """
    if set(blocks) != set(rule.names(message)):
        raise ValueError(
            f"sums: wanted {', '.join(rule.names(message))}, got {', '.join(sorted(blocks))[:200] or 'none'}"
        )
    for name, length, most in zip(rule.names(message), rule.lengths(message), longest, strict=True):
        block = blocks[name]
        if block.dtype != torch.float64 or tuple(block.shape) != (length,):
            raise ValueError(f"{name}: wanted float64 ({length},), got {block.dtype} {tuple(block.shape)}")
        if not bool(torch.isfinite(block).all()) or float(block.norm()) > most:
            raise ValueError(f"{name}: wanted finite numbers of norm {most:.3g} at most, got others")


def scaled(rule: Blocks, message: int, blocks: Sequence[Array], weight: float) -> Array:
    """Return the blocks as one vector of a secure sum: block i times ``weight sqrt(f_i) / sensitivity_i``.

    One unit then moves block i by at most ``weight sqrt(f_i)``. Noise of one standard deviation S in every number gives
    each block the multiplier ``S / (weight sqrt(f_i))``: what is charged, where the weight is S / z.
    """
    shares, sensitivities = rule.shares.of(message), rule.sensitivities(message)
    factors = [weight * _SHORT * math.sqrt(f) / s for f, s in zip(shares, sensitivities, strict=True)]
    return np.concatenate([factor * block for factor, block in zip(factors, blocks, strict=True)])


def unscaled(rule: Blocks, message: int, vector: Array) -> list[Array]:
    """Return the blocks of `scaled`, each still times its member's weight."""
    shares, sensitivities = rule.shares.of(message), rule.sensitivities(message)
    cuts = np.cumsum(rule.lengths(message))[:-1]
    parts = np.split(vector, cuts)
    factors = [s / (_SHORT * math.sqrt(f)) for f, s in zip(shares, sensitivities, strict=True)]
    return [factor * part for factor, part in zip(factors, parts, strict=True)]


def block_noise(rule: Blocks, message: int, deviation: float) -> tuple[float, ...]:
    """Return the deviation of the noise in each block of `unscaled`, for that of the vector's numbers."""
    shares, sensitivities = rule.shares.of(message), rule.sensitivities(message)
    return tuple(deviation * s / math.sqrt(f) for f, s in zip(shares, sensitivities, strict=True))


def split(recipe: Recipe, blocks: Sequence[Array]) -> tuple[Array, Array]:
    """Return the Gram matrix (size, size) and the products (size, directions) of the blocks of message 2."""
    gram, slope = blocks
    return unpacked(gram, recipe.columns.size), slope.reshape(recipe.columns.size, recipe.outcome.directions)


@dataclass(frozen=True)
class OwnPart:
    """One participant's part of the sums, as the coordinator counted it.

    Attributes
    ----------
    key : 32 bytes that the participant knows its contribution by; `NO_PART` where it has none.
    weight : by which its contribution was multiplied after it was sent; 1 in a secure sum.
    units : public units of it in the sum.
    """

    key: bytes
    weight: float
    units: float


@dataclass(frozen=True)
class ToHome:
    """What the last message brings beside the model: the released sums, and which part of them is one's own."""

    released: Released
    own: OwnPart

    def to_tensors(self) -> State:
        """Return it as tensors of a message."""
        r, own = self.released, self.own
        about = [r.gram_deviation, r.slope_deviation, r.units, own.weight, own.units]
        return {
            _GRAM: torch.from_numpy(packed(r.gram)),
            _SLOPE: torch.from_numpy(r.slope.ravel()),
            _ABOUT: torch.tensor(about, dtype=torch.float64),
            _OWN: torch.frombuffer(bytearray(own.key), dtype=torch.uint8),
        }

    @classmethod
    def from_tensors(cls, recipe: Recipe, tensors: Mapping[str, Tensor]) -> ToHome:
        """Read `to_tensors`; ValueError for anything else."""
        lengths = dict(zip((_GRAM, _SLOPE), recipe.lengths(2), strict=True)) | {_ABOUT: 5}
        if set(tensors) != {*lengths, _OWN}:
            raise ValueError("sums: wanted the released sums beside the model, got others")
        for name, length in lengths.items():
            tensor = tensors[name]
            if tensor.dtype != torch.float64 or tuple(tensor.shape) != (length,) or not tensor.isfinite().all():
                raise ValueError(f"{name}: wanted {length} finite float64 numbers, got others")
        if tensors[_OWN].dtype != torch.uint8 or tuple(tensors[_OWN].shape) != (len(NO_PART),):
            raise ValueError(f"{_OWN}: wanted {len(NO_PART)} bytes, got others")
        about = tensors[_ABOUT].tolist()
        if min(about) < 0:
            raise ValueError(f"{_ABOUT}: wanted numbers >= 0, got others")
        gram, slope = split(recipe, [tensors[_GRAM].numpy(), tensors[_SLOPE].numpy()])
        return cls(Released(gram, slope, *about[:3]), OwnPart(tensors[_OWN].numpy().tobytes(), *about[3:]))
