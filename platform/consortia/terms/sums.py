"""`[contract.sums]`: the constants of the learner `sums`."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from typing import Annotated

from pydantic import Field, model_validator

from consortia.common.strict import StrictModel
from consortia.learners.blocks.shares import Shares
from consortia.terms.growing import BuiltOn

_Share = Annotated[float, Field(gt=0, lt=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class SumsTerms(StrictModel):
    """How the budget is shared among the blocks, and what is publicly expected of the target.

    `centre_share`, `gram_share` and `slope_share` are parts of mu^2 and sum to 1. `prevalence` is by industry the
    public share of the positive class, of every class in their order, or of a regression the usual value in its own
    unit; without it the schema's published shares count, equal ones, or the middle of the bounds. `residual` is a
    public guess of a regression's residual variance in its unit squared, for the model that anybody can have.
    `largest_radius` caps the radius that message 1 suggests. With `grows`, participants claim the units that they use,
    so that `consortia run --top-up` may later add a release of new units alone; such a release has `builds_on`.
    """

    centre_share: _Share = 0.10
    gram_share: _Share = 0.27
    slope_share: _Share = 0.63
    largest_radius: _Positive = 8.0
    prevalence: dict[str, _Number | tuple[_Number, ...]] = Field(default_factory=dict)
    residual: dict[str, _Positive] = Field(default_factory=dict)
    grows: Annotated[bool, Field(exclude_if=operator.not_)] = False
    builds_on: Annotated[BuiltOn | None, Field(exclude_if=lambda terms: terms is None)] = None

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> SumsTerms:
        if not math.isclose(self.centre_share + self.gram_share + self.slope_share, 1.0, abs_tol=1e-9):
            raise ValueError("centre_share + gram_share + slope_share = 1")
        if self.builds_on is not None and not self.grows:
            raise ValueError("grows = true with builds_on")
        return self

    @property
    def kept_share(self) -> float:
        """The part of mu^2 that message 2 of a first release has; of a further release message 2 has all."""
        return self.gram_share + self.slope_share

    @property
    def shares(self) -> Shares:
        """The shares as the learner has them; a further release has no message 1."""
        if self.builds_on is not None:
            return Shares("sums", ((), (self.gram_share / self.kept_share, self.slope_share / self.kept_share)))
        return Shares("sums", ((self.centre_share,), (self.gram_share, self.slope_share)))

    def named_industries(self) -> set[str]:
        """Return the industries that the terms speak of."""
        return self.prevalence.keys() | self.residual.keys()

    def only(self, industries: Collection[str]) -> SumsTerms:
        """Return the terms without what they say of other industries."""
        fields = ("prevalence", "residual")
        kept = {field: {n: v for n, v in getattr(self, field).items() if n in industries} for field in fields}
        return self.model_copy(update=kept)

    def expected(self, industry: str) -> tuple[float, ...]:
        """Return what the contract expects of an industry's target; empty where it says nothing."""
        found = self.prevalence.get(industry, ())
        return found if isinstance(found, tuple) else (found,)
