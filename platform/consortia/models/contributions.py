"""Who contributed to a finished run of noisy sums, from the coordinator's records alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from consortia.common.errors import InputError
from consortia.common.run_folders import check_finished
from consortia.coordinator.coalitions import parts_of_run
from consortia.learners.sums.contributions import Contributions, contributions
from consortia.terms.recipe import recipe
from consortia.terms.scenario import scenario_from_json
from privacy.randomness import numpy_generator

__all__ = ["Contribution", "Shared", "contributions_of_run"]

_95: Final = 1.96


@dataclass(frozen=True)
class Contribution:
    """One participant's Shapley value.

    Attributes
    ----------
    value : what it is worth to the others, in squared loss a unit.
    low, high : 95 % interval by noise, scatter of rows and, where coalitions were sampled, the sample.
    copies : participants whose sums look like those of the same rows.
    """

    participant: str
    value: float
    low: float
    high: float
    copies: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Whether its interval leaves 0 out, in words."""
        return "helps" if self.low > 0 else "harms" if self.high < 0 else "noise could have made it"


@dataclass(frozen=True)
class Shared:
    """An industry's participants, the most valuable first; their values sum to `total`."""

    industry: str
    total: float
    sampled: bool
    participants: tuple[Contribution, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        lines = [{**asdict(one), "verdict": one.verdict} for one in self.participants]
        return {"industry": self.industry, "total": self.total, "sampled": self.sampled, "participants": lines}


def contributions_of_run(folder: Path, industries: Sequence[str] = ()) -> list[Shared]:
    """Return who contributed, industry by industry.

    Guarantee: post-processing of what each participant released with noise of its own; no budget is spent, and no
    metric is released for any coalition.

    Parameters
    ----------
    folder : Path
        The coordinator's folder of a finished run.
    industries : sequence of str
        Of which; without them all that have two participants or more.

    Raises
    ------
    InputError
        There is no such run or industry; its learner is another; a secure sum, of which only the total is known; or
        fewer than two participants, so that nobody else could judge.
    """
    check_finished(folder, "scenario.json")
    scenario = scenario_from_json((folder / "scenario.json").read_text(encoding="utf-8"))
    found = []
    for industry in industries or scenario.contract.industries:
        parts = parts_of_run(folder, scenario, industry)
        if len(parts) < 2:
            if industries:
                raise InputError(f"--industry {industry}: wanted at least two participants' sums, got {len(parts)}")
            continue
        rule = recipe(scenario.contract, industry)
        values = contributions(rule, list(parts.values()), numpy_generator("contributions", industry))
        found.append(_shared(industry, list(parts), values))
    if not found:
        raise InputError(f"{folder}: wanted an industry with at least two participants' sums, got none")
    return found


def _shared(industry: str, names: Sequence[str], found: Contributions) -> Shared:
    lines = []
    for place, name in enumerate(names):
        value, room = float(found.values[place]), _95 * float(found.deviations[place])
        pairs = [pair for pair in found.copies if place in pair]
        same = tuple(sorted(names[one] for pair in pairs for one in pair if one != place))
        lines.append(Contribution(name, value, value - room, value + room, same))
    lines.sort(key=lambda one: -one.value)
    return Shared(industry, found.total, found.sampled, tuple(lines))
