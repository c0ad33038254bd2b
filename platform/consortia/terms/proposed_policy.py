"""A policy made of a line of the roster: what the coordinator proposes, taken as the owner's word.

An owner reads and changes it, or an operator simulates with it. It accepts the given contract alone, lets nothing leave
but what that contract wants, and never allows an owner's rows to leave without noise.
"""

from __future__ import annotations

from typing import Any

from consortia.common.errors import InputError
from consortia.terms.contract import Contract
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario

#: Runs that fit into a lifetime, and rows of one unit that count, where nobody says otherwise.
_RUNS, _ROWS_PER_UNIT = 4, 20


def proposed_policy(line: RosterParticipant, contract: Contract | None = None, *, source: str = "") -> dict[str, Any]:
    """Return a policy's data: budget and unit as proposed, four such runs in a lifetime.

    Parameters
    ----------
    contract : the one that it accepts, by its hash, and pays for under DP; none without one.
    source : where its rows are; synthetic rows of the declared number without one.

    Raises
    ------
    InputError
        For a vertical contract, in which an owner has to say what its partners may learn.
    """
    if contract is not None and contract.vertical is not None:
        raise InputError(
            f"policy of {line.name}: wanted its own file, since the contract is vertical and each owner says in "
            "[vertical] what its partners may learn; got none"
        )
    terms: dict[str, Any] = {"industry": line.industry, "source": source or f"synthetic:{line.units}"}
    if not source:
        terms["site"] = line.site
    terms |= {"unit": line.unit or "record", "declared_units": line.units}
    if terms["unit"] != "record":
        terms["max_rows_per_unit"] = _ROWS_PER_UNIT
    # A proposal without noise stays refused, for allow.non_private is false: this budget is of other runs.
    epsilon = 1.0 if line.non_private else line.epsilon
    delta = min(line.delta, 10.0 ** -(len(str(line.units)) + 1))
    account = {
        "run": {"epsilon": epsilon, "delta": delta},
        "lifetime": {"epsilon": _RUNS * epsilon, "delta": _RUNS * delta},
    }
    budget: dict[str, Any] = dict(account)
    allow = {"releases": ["update"], "exact_metrics": False, "non_private": False, "contracts": list[str]()}
    if contract is not None:
        mine = contract.of(line.industry)
        allow |= {"releases": list(mine.releases), "contracts": [f"sha256:{mine.sha256()}"]}
        if mine.evaluation.metrics == "dp":
            budget["evaluation"] = dict(account)
        if mine.statistics is not None:
            budget["statistics"] = account["run"]
    return {
        "schema": 1,
        "participant": line.name,
        "dataset": {line.dataset: terms},
        "budget": budget,
        "allow": allow,
    }


def simulated_policy(scenario: Scenario, line: RosterParticipant) -> dict[str, Any]:
    """Return a demonstration policy for synthetic rows, which allows what the scenario wants. InputError as above."""
    policy = proposed_policy(line, scenario.contract)
    contract = scenario.contract.of(line.industry)
    trusted = contract.trust == "coordinator"
    policy["demo"] = True
    policy["allow"] |= {
        "exact_metrics": contract.evaluation.metrics == "exact" or contract.strategy.strategy().fit.loss,
        "non_private": line.non_private or trusted,
        "trusted_coordinator": trusted,
        "contracts": "any",
    }
    return policy
