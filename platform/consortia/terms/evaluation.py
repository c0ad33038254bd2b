"""The terms of a contract for released metrics and for early stopping."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from consortia.common.strict import StrictModel

if TYPE_CHECKING:  # who reads a contract needs no pandas
    from clients._groups import Grouping


class GroupTerms(StrictModel):
    """By which public column the final model is measured group by group; `cuts` are the borders of a number."""

    column: Annotated[str, Field(min_length=1, max_length=200)]
    cuts: Annotated[tuple[float, ...], Field(exclude_if=lambda cuts: not cuts)] = ()


class EvaluationTerms(StrictModel):
    """How metrics leave a participant.

    `none`: not at all. `dp`: as a noisy histogram of scores by class, paid from the policy's evaluation account.
    `exact`: without noise, where the policy says `exact_metrics = true`; their epsilon is then infinite.

    The final model is measured on the test rows, once. With `every` = n > 0, the model after every n-th round is also
    measured on the validation rows; that release comes with the next round's update. `bins` are the score bins of a
    histogram. `groups` names, by industry, the column by whose public groups the final histogram is told apart
    (`consortia fairness`).
    """

    metrics: Literal["none", "dp", "exact"] = "none"
    every: Annotated[int, Field(ge=0, le=100_000)] = 0
    bins: Annotated[int, Field(ge=8, le=256)] = 24
    groups: Annotated[dict[str, GroupTerms], Field(exclude_if=lambda groups: not groups)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _bins_are_even(self) -> EvaluationTerms:
        if self.bins % 2:
            raise ValueError("an even number of bins, so that a score of one half is an edge")
        if self.every and self.metrics == "none":
            raise ValueError("every = 0 where metrics = 'none': nothing is measured for others")
        if self.groups and self.metrics != "dp":
            raise ValueError("groups with metrics = 'dp' only: by group nothing leaves but a noisy histogram")
        return self

    def grouping(self, industry: str) -> Grouping | None:
        """Return by which column an industry's final model is measured group by group; None where it is not."""
        from clients._groups import Grouping

        terms = self.groups.get(industry)
        return None if terms is None else Grouping(terms.column, terms.cuts)

    def only(self, industries: Collection[str]) -> EvaluationTerms:
        """Return the terms for some industries."""
        return self.model_copy(
            update={"groups": {name: one for name, one in self.groups.items() if name in industries}}
        )

    def releases_between(self, rounds: int) -> int:
        """Return how many rounds' models are measured before the final one."""
        return (rounds - 1) // self.every if self.every else 0

    def due(self, kind: str, round_number: int) -> str | None:
        """Return the partition that the answer to a message measures, or None.

        A train message of round r brings the model after round r - 1.
        """
        if self.metrics == "none":
            return None
        if kind == "evaluate":
            return "evaluation"
        done = round_number - 1
        return "validation" if self.every and done and done % self.every == 0 else None


class StoppingTerms(StrictModel):
    """Stop when a released metric has not improved by `min_delta` over the last `patience` releases.

    The metric is read from the sum of the participants' released histograms (their mean where metrics are exact). It is
    the one of the model before the round in which it arrives: the run stops one round late.
    """

    metric: str
    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    min_delta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _metric_is_known(self) -> StoppingTerms:
        from clients.metric_registry import names

        if self.metric not in names():
            raise ValueError(f"metric: one that is built in or installed ({', '.join(names())})")
        return self
