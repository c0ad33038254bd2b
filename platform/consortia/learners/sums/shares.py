"""How the budget of a run is shared among the blocks of the two messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consortia.learners.shares import BlockShares

__all__ = ["MESSAGES", "Shares"]

#: A run of this learner has two messages.
MESSAGES: Final = 2


@dataclass(frozen=True)
class Shares(BlockShares):
    """Shares of mu^2; they sum to 1.

    Attributes
    ----------
    centre : message 1.
    gram, slope : the blocks of message 2: the Gram matrix, and the products with the target.
    """

    centre: float
    gram: float
    slope: float

    @property
    def what(self) -> str:
        """See `BlockShares`."""
        return "sums"

    @property
    def messages(self) -> int:
        """See `BlockShares`."""
        return MESSAGES

    def of(self, message: int) -> tuple[float, ...]:
        """Return the shares of a message's blocks."""
        return (self.centre,) if message == 1 else (self.gram, self.slope)
