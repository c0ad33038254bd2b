"""How the budget is shared where statistics are released: one block has all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consortia.learners.shares import BlockShares

__all__ = ["BLOCK", "OneBlock"]

BLOCK: Final = "statistics.cells"


@dataclass(frozen=True)
class OneBlock(BlockShares):
    """The whole budget for one block in one message."""

    @property
    def what(self) -> str:
        """See `BlockShares`."""
        return "statistics"

    @property
    def messages(self) -> int:
        """See `BlockShares`."""
        return 1

    def of(self, message: int) -> tuple[float, ...]:
        """See `BlockShares`."""
        return (1.0,)
