"""The terms of a contract for released metrics and for early stopping."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from consortia.common.strict import StrictModel


class EvaluationTerms(StrictModel):
    """How metrics leave a participant.

    `none`: not at all. `dp`: as a noisy histogram of scores by class, paid from the policy's evaluation account.
    `exact`: without noise, where the policy says `exact_metrics = true`; their epsilon is then infinite.

    The final model is measured on the test rows, once. With `every` = n > 0, the model after every n-th round is also
    measured on the validation rows; that release comes with the next round's update. `bins` are the score bins of a
    histogram.
    """

    metrics: Literal["none", "dp", "exact"] = "none"
    every: Annotated[int, Field(ge=0, le=100_000)] = 0
    bins: Annotated[int, Field(ge=8, le=256)] = 24

    @model_validator(mode="after")
    def _bins_are_even(self) -> EvaluationTerms:
        if self.bins % 2:
            raise ValueError("an even number of bins, so that a score of one half is an edge")
        if self.every and self.metrics == "none":
            raise ValueError("every = 0 where metrics = 'none': nothing is measured for others")
        return self

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
