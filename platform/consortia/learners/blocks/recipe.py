"""What a learner of noisy sums says about its messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clients.models import FederatedModule
from clients.schema import Target
from consortia.learners.blocks.rows import Rows
from consortia.learners.blocks.shares import Shares

__all__ = ["BlockRecipe", "LearnedRecipe", "Opened"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Opened:
    """What the coordinator has of one message: sums over all participants that answered.

    Attributes
    ----------
    blocks : float64 (length,) each
        With the noise in them.
    noise : its standard deviation in each block; 0 where nobody added any.
    units : public number of units that the sums stand for.
    """

    blocks: tuple[Array, ...]
    noise: tuple[float, ...]
    units: float


class BlockRecipe(Protocol):
    """Everything public about the blocks of one industry. The learner proves `sensitivities` where `exact` is made."""

    @property
    def shares(self) -> Shares:
        """Of the budget."""
        ...

    def names(self, message: int) -> tuple[str, ...]:
        """Return what the blocks of a message are called when they cross."""
        ...

    def lengths(self, message: int) -> tuple[int, ...]:
        """Return how many numbers each block of a message has."""
        ...

    def sensitivities(self, message: int) -> tuple[float, ...]:
        """Return how far one unit moves each block at most, in L2, whatever the model."""
        ...

    def exact(self, message: int, rows: Rows, model: Mapping[str, Tensor]) -> list[Array]:
        """Return the blocks of a message before noise, of rows and the model that came with it."""
        ...

    def check_model(self, model: Mapping[str, Tensor]) -> None:
        """Raise ValueError for a model of the right shape that nothing can be summed with."""
        ...


class LearnedRecipe(BlockRecipe, Protocol):
    """A learner whose model follows from released sums alone: `additive`, and what packages bring."""

    def scatter(self, message: int) -> tuple[float, ...]:
        """Return by which variance one unit's own numbers scatter in each block: what noise is weighed against."""
        ...

    def advanced(self, message: int, model: Mapping[str, Tensor], opened: Opened) -> dict[str, Tensor]:
        """Return what a message changes of the model."""
        ...

    def build(self, target: Target) -> FederatedModule:
        """Return the model with nothing released in it yet: the same on every side."""
        ...
