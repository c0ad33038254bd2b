"""The scenario of `consortia statistics`: participants and rows of another scenario, and nothing that is trained."""

from __future__ import annotations

from typing import Any, Final

import tomli_w

from consortia.common.errors import InputError
from consortia.terms.scenario import Scenario, scenario_from_toml

__all__ = ["PROPOSED", "statistics_scenario", "statistics_toml"]

#: Proposed to each participant, unless its own scenario proposes less; the budget is what its policy says.
PROPOSED: Final = 0.5
_OF_SECURE: Final = ("mode", "drops", "colluders", "min_cohort", "attempts")


def statistics_scenario(scenario: Scenario, *, bins: int | None = None) -> Scenario:
    """Return the scenario of the statistics; one that has `learner = "statistics"` already is returned as it is.

    Raises
    ------
    InputError
        For a vertical scenario, whose participants hold different columns.
    """
    if scenario.contract.statistics is not None and bins is None:
        return scenario
    return scenario_from_toml(statistics_toml(scenario, bins=bins), f"statistics of {scenario.name}")


def statistics_toml(scenario: Scenario, *, bins: int | None = None) -> str:
    """Return that scenario as a TOML file, which `check`, `budget allow` and `compose` take as any other."""
    contract = scenario.contract
    if contract.vertical is not None:
        raise InputError(
            f'{scenario.name}: wanted contract.mode = "horizontal", got "vertical"; its participants hold different '
            "columns, so there is nothing to compare"
        )
    secure = contract.trust == "aggregate"
    terms: dict[str, Any] = {
        "schema": contract.schema_version,
        "wire": contract.wire,
        "seed": contract.seed,
        "learner": "statistics",
        "trust": "aggregate" if secure else "local",
        "statistics": {} if bins is None else {"bins": bins},
        "split": contract.split.model_dump(),
        "round": contract.round.model_dump(),
        "industries": {n: {"filter": t.filter, "split": t.split} for n, t in contract.industries.items()},
    }
    if secure:
        given = contract.secure_terms.model_dump()
        terms["secure"] = {key: given[key] for key in _OF_SECURE if key in given}
    roster = [
        {**participant.model_dump(), "epsilon": min(participant.epsilon, PROPOSED)} for participant in scenario.roster
    ]
    data = {
        "schema": scenario.schema_version,
        "name": f"{scenario.name}-statistics"[:41].rstrip("-"),
        "title": f"Statistics before training: {scenario.title}",
        "contract": terms,
        "roster": roster,
    }
    return f"# Made from {scenario.name} by consortia statistics.\n{tomli_w.dumps(data)}"
