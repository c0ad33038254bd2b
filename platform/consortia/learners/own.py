"""What a package says about a learner of its own: few messages of noisy sums, of which a model follows.

A package names a frozen dataclass, whose fields are the options of a contract, in the group `consortia.learners`:

    [project.entry-points."consortia.learners"]
    centres = "partner_package.centres:Centres"

It says what one unit adds to each block of numbers, and what the coordinator makes of the sums. Rows, clipping, noise,
budget, ledger, secure sums and messages are the platform's (`consortia.learners.blocks.clipped` has the guarantee).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from consortia.learners.blocks.recipe import Opened

if TYPE_CHECKING:
    from clients.models import FederatedModule
    from clients.schema import Schema

__all__ = ["Block", "Learner", "Model", "Opened", "OwnRecipe", "Unit"]

Array = NDArray[np.float64]
#: Parameters and buffers of the model by name: copies, so nothing that is done to them is seen elsewhere.
Model = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Block:
    """Numbers that are summed over units and noised together.

    Attributes
    ----------
    name : small letters, digits and `_`.
    length : how many numbers.
    sensitivity : how long, in L2, what one unit adds may be. What is longer is shortened to it.
    """

    name: str
    length: int
    sensitivity: float


@dataclass(frozen=True)
class Unit:
    """The rows of one privacy unit, as copies.

    Attributes
    ----------
    features : float64 (m, n_features), scaled as the schema says; of images and sequences in their shape.
    target : float64 (m,)
    """

    features: Array
    target: Array


class OwnRecipe(Protocol):
    """Everything about the learner for one schema. Messages count from 1."""

    def blocks(self, message: int) -> Sequence[Block]:
        """Return the blocks of a message: from options and schema alone, the same on every side."""
        ...

    def adds(self, message: int, unit: Unit, model: Model) -> Sequence[ArrayLike]:
        """Return what one unit adds to each block: from this unit, the message and the model alone.

        Code that remembers other units breaks the guarantee.
        """
        ...

    def check_model(self, model: Model) -> None:
        """Raise ValueError for finite numbers of the right shape that nothing can be summed with."""
        ...

    def advanced(self, message: int, model: Model, opened: Opened) -> Mapping[str, ArrayLike]:
        """Return what a message changes of the model, from released sums and public constants alone."""
        ...

    def build(self) -> FederatedModule:
        """Return the model before message 1: public constants, no draw. Its names begin with encoder, trunk or head."""
        ...


class Learner(Protocol):
    """Options of a contract: a frozen dataclass."""

    @property
    def shares(self) -> Sequence[Sequence[float]]:
        """The parts of the budget (of mu^2), by message and block; together 1."""
        ...

    def recipe(self, schema: Schema) -> OwnRecipe:
        """Return the recipe for an industry's rows.

        Raises
        ------
        ValueError
            "wanted …, got …": for a target or columns that it cannot learn.
        """
        ...
