"""Writes the list of accepted contracts in a participant's policy; all else in the file stays as it is.

The commands `consortia budget allow` and `agree` and the page of `consortia dashboard --allow-changes` come here; all
leave the same policy and the same notes in the ledger. A note costs nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tomlkit

from consortia.common import acts
from consortia.common.errors import InputError
from consortia.participant.home import Home
from consortia.terms.policy import parse_policy
from privacy.errors import PrivacyError
from privacy.ledger import Ledger

__all__ = ["accept", "check_unchanged", "remove", "rewrite"]


def accept(home: Home, entry: str, *, shown: str | None = None) -> None:
    """Put a contract into the list and note it in the ledger, where there is one; both, or nothing.

    Parameters
    ----------
    entry : `sha256:…`, or `name:SCENARIO` in simulations.
    shown : the policy's text that its owner decided on; with another one nothing is changed.

    Raises
    ------
    InputError
        As `rewrite`, and when the ledger takes no note.
    """
    with acts.noted(home.kept, "contract.accept", entry), _ledger(home) as ledger:
        rewrite(home, entry, listed=True, shown=shown)
        try:
            _note(ledger, entry, "accepted")
        except PrivacyError as error:
            rewrite(home, entry, listed=False)
            raise InputError(f"{error}; nothing was changed") from None


def remove(home: Home, entry: str, *, shown: str | None = None) -> None:
    """Take a contract off the list, and note it in the ledger where there is one; its runs get no further release.

    Raises
    ------
    InputError
        As `accept`. A ledger that takes no note does not keep a contract on the list.
    """
    with acts.noted(home.kept, "contract.withdraw", entry):
        rewrite(home, entry, listed=False, shown=shown)  # first: from here on nothing is accepted
        with _ledger(home) as ledger:
            try:
                _note(ledger, entry, "taken off")
            except PrivacyError as error:
                raise InputError(f"{error}; the contract is off the list, and the ledger has no note of it") from None


def rewrite(home: Home, entry: str, *, listed: bool, signed: bool = False, shown: str | None = None) -> None:
    """Put a contract into the list, or take it out. `signed` makes the policy count signed contracts only from then on.

    The rest of the list is the policy's of now: its owner may have changed it while a question waited for an answer.

    Raises
    ------
    InputError
        When the policy is malformed, is another than `shown`, or cannot be written.
    """
    with home.policy_held():
        text = home.policy.read_text(encoding="utf-8-sig")
        check_unchanged(home, text, shown)
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


def check_unchanged(home: Home, text: str, shown: str | None) -> None:
    """Raise `InputError` where the policy is another than the one that its owner was shown."""
    if shown is not None and text != shown:
        raise InputError(
            f"{home.policy}: wanted the policy as it was when the change was shown, got another; nothing was changed: "
            "look at it and try again"
        )


@contextlib.contextmanager
def _ledger(home: Home) -> Iterator[Ledger | None]:
    if not home.ledger.is_file():
        yield None
        return
    with home.open_for_owner() as ledger:
        yield ledger


def _note(ledger: Ledger | None, entry: str, state: str) -> None:
    if ledger is not None:
        ledger.note({"what": "contract", "contract": entry, "state": state})
