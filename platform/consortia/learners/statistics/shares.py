"""How the budget is shared where statistics are released: one block has all of it."""

from __future__ import annotations

from typing import Final

from consortia.learners.blocks.shares import Shares

__all__ = ["BLOCK", "ONE_BLOCK"]

BLOCK: Final = "statistics.cells"
ONE_BLOCK: Final = Shares("statistics", ((1.0,),))
