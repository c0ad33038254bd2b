"""How the budget is shared among named blocks of numbers. The terms read this: nothing heavy is imported."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol

from privacy.events import Event, GaussianRelease, NonPrivate

__all__ = ["BlockShares", "Blocks"]


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
