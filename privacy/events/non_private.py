"""An event for what leaves without noise."""

import math
from dataclasses import dataclass
from typing import Any

from privacy.errors import PlanError
from privacy.events.base import RELATION, Event

__all__ = ["NonPrivate"]


@dataclass(frozen=True, kw_only=True)
class NonPrivate(Event):
    """Something left without noise: epsilon is infinite, and is called so everywhere."""

    kind = "non_private"
    releases = (
        "update",
        "sums",
        "additive",
        "statistics",
        "blocks",
        "metrics",
        "size",
        "intersection",
        "labels",
        "scores",
        "loss",
    )

    what: str

    def validate(self) -> None:
        """Check the name."""
        if not isinstance(self.what, str) or not self.what:
            raise PlanError(f"what: wanted the name of what left, got {self.what!r}")

    @property
    def relation(self) -> str:
        """Add or remove one unit; an infinite epsilon holds under every relation, so it composes with all."""
        return RELATION

    @property
    def size(self) -> int:
        """1: infinity does not grow."""
        return 1

    def resized(self, size: int) -> "NonPrivate":
        """Return itself."""
        return self

    def describe(self) -> str:
        """Return it in plain words."""
        return f"{self.what}, not private"

    def pure_epsilon(self) -> float:
        """Return infinity."""
        return math.inf

    def pld(self, grid: float) -> Any:
        """Return a loss that is infinite for certain."""
        from dp_accounting.pld import common, privacy_loss_distribution

        everything = common.DifferentialPrivacyParameters(0.0, 1.0)
        return privacy_loss_distribution.from_privacy_parameters(everything, grid)

    def loss_span(self) -> float:
        """Return 0: no grid is needed."""
        return 0.0

    def rdp(self, orders: tuple[int, ...]) -> tuple[float, ...]:
        """Return infinity at each order."""
        return (math.inf,) * len(orders)
