"""Explains the released models of a finished run, from the coordinator's records alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from consortia.common.errors import InputError
from consortia.common.run_folders import check_finished
from consortia.coordinator.coalitions import coalition
from consortia.models.explain.additive import explain_additive
from consortia.models.explain.effects import Explanation
from consortia.models.explain.network import explain_network
from consortia.models.explain.sums import explain_sums
from consortia.models.rows import view_of
from consortia.models.source import of_coordinator
from consortia.terms.recipe import additive_recipe, recipe
from consortia.terms.scenario import Scenario, scenario_from_json

__all__ = ["explain_run"]


def explain_run(folder: Path, industries: Sequence[str] = ()) -> list[Explanation]:
    """Return what the released model of each industry says.

    Guarantee: released values and the public schema are all that is read, so it costs no budget and may be shown to
    whoever may have the model.

    Parameters
    ----------
    folder : Path
        The coordinator's folder of a finished run.
    industries : sequence of str
        Which to explain; without them, every industry whose whole model was released.

    Raises
    ------
    InputError
        There is no such run or industry, a named industry's model has private parts, or no model was released.
    """
    check_finished(folder, "scenario.json")
    scenario = scenario_from_json((folder / "scenario.json").read_text(encoding="utf-8"))
    contract = scenario.contract
    if contract.statistics is not None or contract.vertical is not None:
        what = (
            "statistics, which train no model" if contract.vertical is None else "a vertical run, whose model is split"
        )
        raise InputError(f"{folder}: wanted a run that released a model, got {what}")
    found: list[Explanation] = []
    problems: list[str] = []
    for industry in industries or contract.industries:
        try:
            found.append(_industry(folder, scenario, industry))
        except InputError as error:
            if industries:
                raise
            problems += error.problems
    if not found:
        raise InputError("; ".join(problems))
    return found


def _industry(folder: Path, scenario: Scenario, industry: str) -> Explanation:
    found = of_coordinator(str(folder), industry)
    view, contract = view_of(found.about), scenario.contract.of(industry)
    if contract.additive is not None and found.model.network is not None:
        cells = additive_recipe(contract, industry)
        return explain_additive(industry, view, cells, found.model.network.state_dict(), _units(scenario, industry))
    rule = None if contract.sums is None else recipe(contract, industry)
    if rule is None or rule.encoder is not None or found.model.network is None:
        summed = contract.own is not None or rule is not None
        return explain_network(industry, contract.learner, view, found.model, sums=summed)
    released = coalition(folder, scenario, industry)
    return explain_sums(industry, view, rule, found.model.network.state_dict(), released)


def _units(scenario: Scenario, industry: str) -> float:
    """Return the public number of units that surely count whole: those of the participants with the largest budget.

    With unequal budgets the others count less, and nothing released says how much.
    """
    members = [participant for participant in scenario.roster if participant.industry == industry]
    most = max(participant.epsilon for participant in members)
    return float(sum(scenario.contract.split.training_units(one.units) for one in members if one.epsilon == most))
