"""`[contract.sums]`: the constants of the learner `sums`, and what a contract of noisy sums may leave out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError, model_validator

from consortia.common.strict import StrictModel
from consortia.learners.blocks.shares import Shares
from consortia.terms.additive import AdditiveTerms
from consortia.terms.statistics import StatisticsTerms

_Share = Annotated[float, Field(gt=0, lt=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Number = Annotated[float, Field(allow_inf_nan=False)]
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


#: The terms of each learner of noisy sums.
LEARNERS: Final[Mapping[str, type[SumsTerms | AdditiveTerms | StatisticsTerms]]] = MappingProxyType(
    {"sums": SumsTerms, "additive": AdditiveTerms, "statistics": StatisticsTerms}
)


def with_constants(contract: Mapping[str, Any]) -> dict[str, Any]:
    """Return a written contract with what a learner of noisy sums fixes, where it was left out; others as they are."""
    own = contract.get("by_industry")
    industries = contract.get("industries")
    if not isinstance(own, dict) or not isinstance(industries, dict):
        return _with_constants(contract)
    rest = {name: terms for name, terms in industries.items() if name not in own}
    data = _with_constants({**contract, "industries": rest})
    data["by_industry"] = {}
    for name, terms in own.items():
        alone = {"industries": {name: industries[name]}} if name in industries else {}
        filled = _with_constants({**terms, **alone}) if isinstance(terms, dict) else terms
        data["industries"] |= filled.pop("industries", {}) if alone and isinstance(terms, dict) else alone
        data["by_industry"][name] = filled
    return data


def _with_constants(contract: Mapping[str, Any]) -> dict[str, Any]:
    data = dict(contract)
    learner = str(data.get("learner"))
    if learner not in LEARNERS:
        return data
    data.setdefault("releases", [learner])
    terms = data.setdefault(learner, {})
    try:
        shares = LEARNERS[learner].model_validate(terms, strict=False).shares
    except ValidationError:  # they are refused when they are read
        shares = LEARNERS[learner]().shares
    data.setdefault("rounds", shares.messages)
    if data.get("trust") == "aggregate" and isinstance(secure := data.setdefault("secure", {}), dict):
        # A second attempt costs as much as the first: who wants spare ones pays with noise, so says so.
        data["secure"] = {"spare": 0, **secure}
    if isinstance(industries := data.get("industries"), dict):
        data["industries"] = {
            name: {**STEPS, **terms} if isinstance(terms, dict) else terms for name, terms in industries.items()
        }
    return data
