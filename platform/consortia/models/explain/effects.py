"""What is said of a released model: how much each column moves its outputs, and in which direction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Curve", "Effect", "Explanation"]


@dataclass(frozen=True)
class Curve:
    """What a column adds to an output, by its value.

    Attributes
    ----------
    names, places : of the values; a place is in the column's own unit, None for a category, a flag and "missing".
    values : what is added, from the average on.
    lows, highs : 95 % of what noise leaves open at each value; empty where that is unknown.
    """

    names: tuple[str, ...]
    places: tuple[float | None, ...]
    values: tuple[float, ...]
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()


@dataclass(frozen=True)
class Effect:
    """One column's part in one output.

    Attributes
    ----------
    column, measure : its name and unit of measure.
    output : which output, such as "p(bad)".
    importance : how far the column moves the output, typically: a root mean square in the output's unit.
    low, high : interval that holds for all columns together; None where noise's part is unknown.
    """

    column: str
    measure: str
    output: str
    importance: float
    low: float | None
    high: float | None
    curve: Curve

    @property
    def clear(self) -> bool | None:
        """Whether noise alone would hardly make so much; None where that is unknown."""
        return None if self.low is None else self.low > 0


@dataclass(frozen=True)
class Explanation:
    """One industry's released model.

    Attributes
    ----------
    says : sentences on what the numbers are, what they rest on and what they do not say.
    effects : the largest first, output by output.
    """

    industry: str
    learner: str
    says: tuple[str, ...]
    effects: tuple[Effect, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        effects = [{**asdict(effect), "clear": effect.clear} for effect in self.effects]
        return {"industry": self.industry, "learner": self.learner, "says": list(self.says), "effects": effects}
