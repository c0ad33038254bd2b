"""Writes the list of accepted contracts in a participant's policy; all else in the file stays as it is."""

from __future__ import annotations

import tomlkit

from consortia.participant.home import Home
from consortia.terms.policy import parse_policy

__all__ = ["rewrite"]


def rewrite(home: Home, entry: str, *, listed: bool, signed: bool = False) -> None:
    """Put a contract into the list, or take it out. `signed` makes the policy count signed contracts only from then on.

    The rest of the list is the policy's of now: its owner may have changed it while a question waited for an answer.

    Raises
    ------
    InputError
        When the policy is malformed, or cannot be written.
    """
    with home.policy_held():
        text = home.policy.read_text(encoding="utf-8-sig")
        contracts, document = parse_policy(text, str(home.policy)).allow.contracts, tomlkit.parse(text)
        array = tomlkit.array()
        array.extend([*(one for one in contracts if one != entry), *([entry] if listed else [])])
        allow = document.setdefault("allow", tomlkit.table())
        allow["contracts"] = array.multiline(True)
        if signed:
            allow["signed"] = True
        text = tomlkit.dumps(document)
        parse_policy(text, str(home.policy))
        home.write_policy(text)
