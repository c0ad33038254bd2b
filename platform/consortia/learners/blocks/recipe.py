"""What a learner of noisy sums says about its messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from consortia.learners.blocks.rows import Rows
from consortia.learners.blocks.shares import Shares

__all__ = ["BlockRecipe"]


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

    def exact(self, message: int, rows: Rows, model: Mapping[str, Tensor]) -> list[NDArray[np.float64]]:
        """Return the blocks of a message before noise, of rows and the model that came with it."""
        ...

    def check_model(self, model: Mapping[str, Tensor]) -> None:
        """Raise ValueError for a model of the right shape that nothing can be summed with."""
        ...
