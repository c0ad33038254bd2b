"""What learners that release noisy sums have in common: named blocks of numbers, each with a share of the budget."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.events import Event, GaussianRelease, NonPrivate
from privacy.noise_context import NoiseContext
from privacy.randomness import KeyStream
from privacy.secure_noise import Grid

__all__ = ["BlockShares", "Blocks", "deviations", "noised"]

Array = NDArray[np.float64]


class BlockShares(ABC):
    """How the budget of a run is shared among the blocks of its messages; over a whole run the shares sum to 1."""

    @property
    @abstractmethod
    def what(self) -> str:
        """What is released, in a word."""

    @property
    @abstractmethod
    def messages(self) -> int:
        """How many messages a run has."""

    @abstractmethod
    def of(self, message: int) -> tuple[float, ...]:
        """Return the shares of mu^2 of a message's blocks."""

    def events(self, message: int, multiplier: float, unit: str) -> tuple[Event, ...]:
        """Return what a message costs: one event a block; `multiplier` is z, 0 where nothing is noised."""
        if not multiplier:
            return (NonPrivate(what=f"{self.what}, message {message}", partition="train", unit=unit),)
        return tuple(
            GaussianRelease(noise_multiplier=multiplier / math.sqrt(share), partition="train", unit=unit)
            for share in self.of(message)
        )

    def whole(self, multiplier: float, unit: str) -> tuple[Event, ...]:
        """Return what all messages cost."""
        return tuple(
            event for message in range(1, self.messages + 1) for event in self.events(message, multiplier, unit)
        )


class Blocks(Protocol):
    """The public description of what an industry's participants release."""

    @property
    def shares(self) -> BlockShares:
        """How the budget is shared."""
        ...

    def names(self, message: int) -> tuple[str, ...]:
        """Return the names of a message's blocks."""
        ...

    def lengths(self, message: int) -> tuple[int, ...]:
        """Return how many numbers each block of a message has."""
        ...

    def sensitivities(self, message: int) -> tuple[float, ...]:
        """Return how far one unit moves each block at most, in L2."""
        ...


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
