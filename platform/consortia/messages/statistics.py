"""The last message of statistics before training: the released numbers of all participants together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from consortia.learners.statistics.estimates import Released
from consortia.learners.statistics.layout import Layout
from consortia.messages.sums import NO_PART
from consortia.terms.scopes import State

__all__ = ["Together"]

_CELLS, _ABOUT, _OWN = "statistics/cells", "statistics/about", "statistics/own"


@dataclass(frozen=True)
class Together:
    """The released numbers of everybody.

    Attributes
    ----------
    released : their sum.
    scale : the divisor of a participant's own part: the largest weight in a secure sum, otherwise 1.
    key : 32 bytes that identify the participant's contribution; `NO_PART` if it has none.
    """

    released: Released
    scale: float
    key: bytes

    def to_tensors(self) -> State:
        """Return the numbers as tensors of a message."""
        return {
            _CELLS: torch.from_numpy(self.released.vector),
            _ABOUT: torch.tensor([self.released.deviation, self.scale], dtype=torch.float64),
            _OWN: torch.frombuffer(bytearray(self.key), dtype=torch.uint8),
        }

    @classmethod
    def from_tensors(cls, layout: Layout, tensors: Mapping[str, Tensor]) -> Together:
        """Read `to_tensors`; ValueError for anything else."""
        shapes = {
            _CELLS: (torch.float64, (layout.length,)),
            _ABOUT: (torch.float64, (2,)),
            _OWN: (torch.uint8, (len(NO_PART),)),
        }
        if set(tensors) != set(shapes):
            raise ValueError("statistics: wanted the released numbers of everybody, got others")
        for name, (dtype, shape) in shapes.items():
            tensor = tensors[name]
            if tensor.dtype != dtype or tuple(tensor.shape) != shape or not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name}: wanted finite {dtype} {shape}, got others")
        deviation, scale = tensors[_ABOUT].tolist()
        if deviation < 0 or scale <= 0:
            raise ValueError(f"{_ABOUT}: wanted a deviation >= 0 and a scale > 0, got others")
        released = Released(layout, tensors[_CELLS].numpy(), deviation)
        return cls(released, scale, tensors[_OWN].numpy().tobytes())
