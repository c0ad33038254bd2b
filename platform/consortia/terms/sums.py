"""`[contract.sums]`: the constants of the learner `sums`, and what a written contract may leave out with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from consortia.common.strict import StrictModel
from consortia.learners.statistics.shares import OneBlock
from consortia.learners.sums.shares import MESSAGES, Shares

_Share = Annotated[float, Field(gt=0, lt=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
#: Messages of a run, by learner of noisy sums.
_MESSAGES: Final[Mapping[str, int]] = {"sums": MESSAGES, "statistics": OneBlock().messages}
#: An industry's terms where nothing takes steps: every unit is in each sum, once, within a bound of 1.
STEPS: Final[Mapping[str, Any]] = {"local_steps": 1, "sampling_rate": 1.0, "clip": 1.0, "learning_rate": 1.0}


class SumsTerms(StrictModel):
    """How the budget is shared among the blocks, and what is publicly expected of the target.

    `centre_share`, `gram_share` and `slope_share` are parts of mu^2 and sum to 1. `prevalence` is by industry the
    public share of the positive class, of every class in their order, or of a regression the usual value in its own
    unit; without it the schema's published shares count, equal ones, or the middle of the bounds. `residual` is a
    public guess of a regression's residual variance in its unit squared, for the model that anybody can have.
    `largest_radius` caps the radius that message 1 suggests.
    """

    centre_share: _Share = 0.10
    gram_share: _Share = 0.27
    slope_share: _Share = 0.63
    largest_radius: _Positive = 8.0
    prevalence: dict[str, _Number | tuple[_Number, ...]] = Field(default_factory=dict)
    residual: dict[str, _Positive] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> SumsTerms:
        if not math.isclose(self.centre_share + self.gram_share + self.slope_share, 1.0, abs_tol=1e-9):
            raise ValueError("centre_share + gram_share + slope_share = 1")
        return self

    @property
    def shares(self) -> Shares:
        """The shares as the learner has them."""
        return Shares(self.centre_share, self.gram_share, self.slope_share)

    @property
    def least_part(self) -> float:
        """By which part of a member's weight one unit moves the smallest block of a secure sum."""
        return math.sqrt(min(self.centre_share, self.gram_share, self.slope_share))

    def expected(self, industry: str) -> tuple[float, ...]:
        """Return what the contract expects of an industry's target; empty where it says nothing."""
        found = self.prevalence.get(industry, ())
        return found if isinstance(found, tuple) else (found,)


def with_constants(contract: Mapping[str, Any]) -> dict[str, Any]:
    """Return a written contract with what a learner of noisy sums fixes, where it was left out; others as they are."""
    data = dict(contract)
    learner = str(data.get("learner"))
    if learner not in _MESSAGES:
        return data
    data.setdefault("rounds", _MESSAGES[learner])
    data.setdefault("releases", [learner])
    data.setdefault(learner, {})
    if data.get("trust") == "aggregate" and isinstance(secure := data.setdefault("secure", {}), dict):
        # A second attempt costs as much as the first: who wants spare ones pays with noise, so says so.
        data["secure"] = {"spare": 0, **secure}
    if isinstance(industries := data.get("industries"), dict):
        data["industries"] = {
            name: {**STEPS, **terms} if isinstance(terms, dict) else terms for name, terms in industries.items()
        }
    return data
