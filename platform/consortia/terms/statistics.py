"""`[contract.statistics]`: the constants of statistics before training, and what a written contract may leave out."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from consortia.common.strict import StrictModel
from consortia.learners.statistics.shares import OneBlock


class StatisticsTerms(StrictModel):
    """What is counted: every column's categories, and `bins` equal bins between the public bounds of a number."""

    bins: Annotated[int, Field(ge=2, le=100)] = 8

    @property
    def shares(self) -> OneBlock:
        """How the budget is shared: one block has all of it."""
        return OneBlock()

    @property
    def least_part(self) -> float:
        """By which part of a member's weight one unit moves the smallest block of a secure sum."""
        return 1.0
