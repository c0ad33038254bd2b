"""Randomised response over a public set of values (Warner 1965; Kairouz, Bonawitz & Ramage 2016)."""

from dataclasses import dataclass
from typing import Any

from privacy.errors import PlanError
from privacy.events.base import CHANGE_LABEL, REPLACE_ROW, Repeated, check_count, check_positive

__all__ = ["RandomizedResponse"]


@dataclass(frozen=True, kw_only=True)
class RandomizedResponse(Repeated):
    """``count`` passes of every label (or score) through randomised response: pure epsilon, delta = 0.

    Parameters
    ----------
    what : "label" (relation: change one label) or "score" (relation: replace one row's columns).
    epsilon : of one value.
    classes : number of values it can take, >= 2.
    rows_per_unit : rows that one unit may have; each of them costs `epsilon`.
    """

    kind = "randomized_response"
    releases = ("labels", "scores")

    what: str
    epsilon: float
    classes: int
    rows_per_unit: int = 1
    count: int = 1

    def validate(self) -> None:
        """Check the numbers."""
        if self.what not in {"label", "score"}:
            raise PlanError(f'what: wanted "label" or "score", got {self.what!r}')
        check_positive("epsilon", self.epsilon)
        check_count("classes", self.classes, least=2)
        check_count("rows_per_unit", self.rows_per_unit)
        check_count("count", self.count)

    @property
    def relation(self) -> str:
        """Change one label, or replace one row's columns."""
        return CHANGE_LABEL if self.what == "label" else REPLACE_ROW

    def describe(self) -> str:
        """Return it in plain words."""
        return f"{self.what} by randomised response over {self.classes} values, ε {self.epsilon:.3g}"

    def _of_one(self) -> float:
        """Epsilon of one release for a unit with as many rows as it may have."""
        return float(self.epsilon) * self.rows_per_unit

    def pure_epsilon(self) -> float:
        """Return the sum of the values' epsilons (Dwork & Roth 2014, Theorem 3.14)."""
        return self._of_one() * self.count

    def pld(self, grid: float) -> Any:
        """Return the distribution that dominates every mechanism of this pure epsilon."""
        from dp_accounting.pld import common, privacy_loss_distribution

        one = common.DifferentialPrivacyParameters(self._of_one(), 0.0)
        return privacy_loss_distribution.from_privacy_parameters(one, grid).self_compose(self.count)

    def loss_span(self) -> float:
        """Return the loss's range."""
        return 2 * self.pure_epsilon()

    def rdp(self, orders: tuple[int, ...]) -> tuple[float, ...]:
        """Return the bound of a pure epsilon (Bun & Steinke 2016, Prop. 3.3)."""
        one = self._of_one()
        return tuple(min(one, a * one**2 / 2) * self.count for a in orders)
