"""Finds the policies that a simulation starts from: a scenario's demonstration policies, or the roster's proposals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from consortia.common.errors import InputError
from consortia.common.strict import read_toml
from consortia.terms.many_participants import filled, policy_of
from consortia.terms.policy import Policy, parse_policy, policy_or_input_error
from consortia.terms.proposed_policy import simulated_policy
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario, find_scenario


def demo_policy_file(scenario: str, participant: str) -> Path:
    """Return where the demonstration policy of a scenario's participant lies."""
    path = find_scenario(scenario)
    return policy_of(path.parent / "policies" / path.stem, participant)


def demo_policy(
    name: str, scenario: Scenario, participant: RosterParticipant, *, proposed: bool
) -> tuple[dict[str, Any], Policy]:
    """Return the demonstration policy of one participant of the scenario `name`, as data and parsed.

    Parameters
    ----------
    proposed : makes the policy from the roster's proposal if there is no file. It uses synthetic rows, for an
        operator's own trial.

    Raises
    ------
    InputError
        There is no policy, or its file is malformed.
    """
    file = demo_policy_file(name, participant.name)
    if file.is_file():
        policy = policy_or_input_error(file, simulation=True)
        return filled(read_toml(file), participant.name, participant.site), policy
    if proposed:
        data = simulated_policy(scenario, participant)
        return data, parse_policy(tomli_w.dumps(data), f"policy of {participant.name}")
    raise InputError(
        f"policy of {participant.name}: wanted {file}, got nothing there; without a policy a participant refuses. "
        f"`consortia budget init --scenario {name} --home HOMES` makes policies of what the roster proposes, and "
        "--ledger HOMES runs with them"
    )
