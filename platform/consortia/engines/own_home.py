"""Finds the home of a participant that runs on this machine as its own, not as a simulation."""

from __future__ import annotations

from consortia.common.environment import default_root
from consortia.common.errors import InputError
from consortia.participant.home import Home
from consortia.terms.policy import policy_or_input_error

__all__ = ["own_home"]


def own_home(name: str) -> Home:
    """Return the participant's home, with a policy that may be deployed and a ledger.

    Raises
    ------
    InputError
        When policy or ledger is missing, or the policy is refused.
    """
    home = Home((default_root() / name).resolve(), name)
    policy_or_input_error(home.policy, simulation=False)
    if not home.ledger.is_file():
        raise InputError(
            f"{home.ledger}: wanted the ledger of {name}, got nothing there; "
            f"make it with `consortia budget init {name}`"
        )
    return home
