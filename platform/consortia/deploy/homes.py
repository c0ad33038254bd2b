"""Makes a participant's home: policy, split key, empty ledger. It never touches an existing ledger."""

from __future__ import annotations

from typing import Any

import tomli_w

from consortia.common.errors import InputError
from consortia.common.strict import read_toml
from consortia.engines.demonstration import demo_policy_file
from consortia.participant.home import Home
from consortia.participant.ledger_witness import check_new
from consortia.terms.many_participants import filled
from consortia.terms.proposed_policy import proposed_policy
from consortia.terms.scenario import Scenario
from privacy.ledger import Ledger


def owned_policy(scenario: str, loaded: Scenario, participant: str) -> dict[str, Any]:
    """Return a scenario's demonstration policy as one owner's: it no longer accepts just any contract.

    Where there is none, the policy is made of what the roster proposes (`consortia.terms.proposed_policy`).
    """
    file = demo_policy_file(scenario, participant)
    if not file.is_file():
        return proposed_policy(loaded.participant(participant), loaded.contract)
    data = filled(read_toml(file), participant, loaded.participant(participant).site)
    data["demo"] = False
    data["allow"]["contracts"] = [f"sha256:{loaded.contract.sha256()}"]
    return data


def make_home(home: Home, policy: dict[str, Any] | None, note: str) -> None:
    """Make the folder, the split key, the policy where none lies there yet, and an empty ledger.

    Raises
    ------
    InputError
        When there is a ledger already.
    """
    make_home_of_text(home, None if policy is None else f"# {note}\n{tomli_w.dumps(policy)}")


def make_home_of_text(home: Home, policy: str | None) -> None:
    """Make a home as `make_home` does, with the policy's own text."""
    if home.ledger.exists():
        raise InputError(
            f"{home.ledger}: wanted no ledger there yet, got one; a ledger is never replaced, since that would "
            "forget what was spent"
        )
    check_new(home)
    home.create()
    if policy is not None and not home.policy.exists():
        home.policy.write_text(policy, encoding="utf-8")
    Ledger.create(home.ledger, home.participant).close()
