"""Who contributed to a finished run, from the coordinator's records alone: noisy sums, or kept noisy updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from consortia.common.errors import InputError
from consortia.common.run_folders import check_finished
from consortia.coordinator.coalitions import parts_of_run
from consortia.coordinator.kept_grams import rounds_of_run
from consortia.learners.agreement import agreement
from consortia.learners.sums.contributions import contributions
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
    value : what it is worth to the others: in squared loss a unit of sums, in first-order loss of updates.
    low, high : 95 % interval by noise, scatter of rows (of updates: scatter of rounds) and, where coalitions were
        sampled, the sample.
    copies : participants whose sums look like those of the same rows; of updates always empty, since nobody looks.
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
    """An industry's participants, the most valuable first; their values sum to `total`.

    `released` is what their values are made of.
    """

    industry: str
    released: Literal["sums", "updates"]
    total: float
    sampled: bool
    participants: tuple[Contribution, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        lines = [{**asdict(one), "verdict": one.verdict} for one in self.participants]
        return {
            "industry": self.industry,
            "released": self.released,
            "total": self.total,
            "sampled": self.sampled,
            "participants": lines,
        }


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
        There is no such run or industry; its learner is another; a secure sum, of which only the total is known; fewer
        than two participants, so that nobody else could judge; or a run of steps that kept no updates, or fewer than
        two rounds of them.
    """
    check_finished(folder, "scenario.json")
    scenario = scenario_from_json((folder / "scenario.json").read_text(encoding="utf-8"))
    contract, found = scenario.contract, []
    for industry in industries or contract.industries:
        generator = numpy_generator("contributions", industry)
        if contract.mode == "horizontal" and contract.of(industry).learner == "gradient":
            names, rounds = rounds_of_run(folder, scenario, industry)
            gains = agreement(rounds, generator)
            found.append(_shared(industry, "updates", names, gains.values, gains.rooms, gains.total, gains.sampled))
            continue
        parts = parts_of_run(folder, scenario, industry)
        if len(parts) < 2:
            if industries:
                raise InputError(f"--industry {industry}: wanted at least two participants' sums, got {len(parts)}")
            continue
        worth = contributions(recipe(contract, industry), list(parts.values()), generator)
        rooms = _95 * worth.deviations
        found.append(
            _shared(industry, "sums", list(parts), worth.values, rooms, worth.total, worth.sampled, worth.copies)
        )
    if not found:
        raise InputError(f"{folder}: wanted an industry with at least two participants' sums, got none")
    return found


def _shared(
    industry: str,
    released: Literal["sums", "updates"],
    names: Sequence[str],
    values: NDArray[np.float64],
    rooms: NDArray[np.float64],
    total: float,
    sampled: bool,
    copies: Sequence[tuple[int, int]] = (),
) -> Shared:
    lines = []
    for place, name in enumerate(names):
        value, room = float(values[place]), float(rooms[place])
        same = tuple(sorted(names[one] for pair in copies if place in pair for one in pair if one != place))
        lines.append(Contribution(name, value, value - room, value + room, same))
    lines.sort(key=lambda one: -one.value)
    return Shared(industry, released, total, sampled, tuple(lines))
