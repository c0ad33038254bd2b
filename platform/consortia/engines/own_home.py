"""Finds the home of a participant that runs deployed on this machine, not simulated."""

from __future__ import annotations

from consortia.common.environment import default_root
from consortia.common.errors import InputError
from consortia.participant.home import Home
from consortia.terms.policy import policy_or_input_error

__all__ = ["own_home"]


def own_home(name: str) -> Home:
    """Return the participant's home after checking that it has a ledger and a policy that may be deployed.

    Raises
    ------
    InputError
        The policy or the ledger is missing, or the policy is refused.
    """
    home = Home((default_root() / name).resolve(), name)
    policy_or_input_error(home.policy, simulation=False)
    if not home.ledger.is_file():
        raise InputError(
            f"{home.ledger}: wanted the ledger of {name}, got nothing there; "
            f"make it with `consortia budget init {name}`"
        )
    return home
