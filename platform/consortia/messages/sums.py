"""What the last message of the learner `sums` carries besides the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortia.learners.sums.model import Recipe
from consortia.learners.sums.solution import Released
from consortia.learners.sums.statistics import packed, unpacked
from consortia.terms.scopes import State

__all__ = ["NO_PART", "OwnPart", "ToHome", "split"]

Array = NDArray[np.float64]
#: The key of a participant without a contribution.
NO_PART: Final = bytes(32)
_GRAM, _SLOPE, _ABOUT, _OWN = "sums/gram", "sums/slope", "sums/about", "sums/own"


def split(recipe: Recipe, blocks: Sequence[Array]) -> tuple[Array, Array]:
    """Return the Gram matrix (size, size) and the products (size, directions) of the blocks of message 2."""
    gram, slope = blocks
    return unpacked(gram, recipe.columns.size), slope.reshape(recipe.columns.size, recipe.outcome.directions)


@dataclass(frozen=True)
class OwnPart:
    """One participant's part of the released sums.

    Attributes
    ----------
    key : 32 bytes that identify the participant's contribution; `NO_PART` if it has none.
    weight : factor that the coordinator applied to the contribution; 1 in a secure sum.
    units : public number of its units in the sum.
    """

    key: bytes
    weight: float
    units: float


@dataclass(frozen=True)
class ToHome:
    """What the last message carries besides the model: the released sums, and the receiver's own part of them."""

    released: Released
    own: OwnPart

    def to_tensors(self) -> State:
        """Return the sums as tensors of a message."""
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
