"""`[contract.additive]`: the constants of the learner `additive`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field

from consortia.common.strict import StrictModel
from consortia.learners.blocks.shares import Shares

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Pair = Annotated[tuple[str, ...], Field(min_length=2, max_length=2)]


class AdditiveTerms(StrictModel):
    """How boosting goes, and what is publicly expected of the target.

    Message 1 counts rows by cell, each of the next `boosting_rounds` messages sums gradients by cell; all cost alike.
    `bins` is into how many cells of equal width a number is cut, `pair_bins` each number of a pair. A row's gradient is
    clipped to `gradient_clip`: of classes on the scale of probabilities, of a regression on that of its bounds, scaled
    to [-1, 1]. `prevalence` is as in `[contract.sums]`. `monotone` says by industry of which numbers the model may only
    rise ("up") or fall ("down"), `pairs` which pairs of columns get a shape of their own: fixed before any row is seen.
    """

    boosting_rounds: Annotated[int, Field(ge=1, le=200)] = 20
    bins: Annotated[int, Field(ge=2, le=256)] = 16
    pair_bins: Annotated[int, Field(ge=2, le=16)] = 6
    gradient_clip: Annotated[float, Field(gt=0, le=2)] = 0.5
    prevalence: dict[str, _Number | tuple[_Number, ...]] = Field(default_factory=dict)
    monotone: dict[str, dict[str, Literal["up", "down"]]] = Field(default_factory=dict)
    pairs: dict[str, tuple[_Pair, ...]] = Field(default_factory=dict)

    @property
    def shares(self) -> Shares:
        """The shares of the budget: all messages cost alike, so a repeated one costs no more than any."""
        messages = 1 + self.boosting_rounds
        return Shares("additive", ((1 / messages,),) * messages)

    def named_industries(self) -> set[str]:
        """Return the industries that the terms speak of."""
        return self.prevalence.keys() | self.monotone.keys() | self.pairs.keys()

    def only(self, industries: Collection[str]) -> AdditiveTerms:
        """Return the terms without what they say of other industries."""
        fields = ("prevalence", "monotone", "pairs")
        kept = {field: {n: v for n, v in getattr(self, field).items() if n in industries} for field in fields}
        return self.model_copy(update=kept)

    def expected(self, industry: str) -> tuple[float, ...]:
        """Return what the contract expects of an industry's target; empty where it says nothing."""
        found = self.prevalence.get(industry, ())
        return found if isinstance(found, tuple) else (found,)
