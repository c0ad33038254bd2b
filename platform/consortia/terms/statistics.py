"""`[contract.statistics]`: the constants of statistics before training, and what a written contract may leave out."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from consortia.common.strict import StrictModel
from consortia.learners.blocks.shares import Shares
from consortia.learners.statistics.shares import ONE_BLOCK


class StatisticsTerms(StrictModel):
    """What is counted: every column's categories, and `bins` equal bins between the public bounds of a number."""

    bins: Annotated[int, Field(ge=2, le=100)] = 8

    @property
    def shares(self) -> Shares:
        """How the budget is shared: one block has all of it."""
        return ONE_BLOCK

    def named_industries(self) -> set[str]:
        """Return the industries that the terms speak of: none."""
        return set()
