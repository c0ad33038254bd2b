"""How the budget of a run is shared among the blocks of the two messages, and the events that they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from privacy.events import Event, GaussianRelease, NonPrivate

__all__ = ["MESSAGES", "Shares"]

#: A run of this learner has two messages.
MESSAGES: Final = 2


@dataclass(frozen=True)
class Shares:
    """Shares of mu^2; they sum to 1.

    Attributes
    ----------
    centre : message 1.
    gram, slope : the blocks of message 2: the Gram matrix, and the products with the target.
    """

    centre: float
    gram: float
    slope: float

    def of(self, message: int) -> tuple[float, ...]:
        """Return the shares of a message's blocks."""
        return (self.centre,) if message == 1 else (self.gram, self.slope)

    def events(self, message: int, multiplier: float, unit: str) -> tuple[Event, ...]:
        """Return what a message costs: one event a block; `multiplier` is z, 0 where nothing is noised."""
        if not multiplier:
            return (NonPrivate(what=f"sums, message {message}", partition="train", unit=unit),)
        return tuple(
            GaussianRelease(noise_multiplier=multiplier / math.sqrt(share), partition="train", unit=unit)
            for share in self.of(message)
        )

    def whole(self, multiplier: float, unit: str) -> tuple[Event, ...]:
        """Return what both messages cost."""
        return tuple(event for message in (1, 2) for event in self.events(message, multiplier, unit))
