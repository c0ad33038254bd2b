"""A participant's part of a run's passport, made and signed at home.

Guarantees
----------
* Everything in it belongs to this run: its accounts, what was released by kind, and the ledger's head before and
  after. It does not contain the lifetime's ε, other runs, rows, counts of rows, metrics measured at home, or hashes of
  files that stay at home. The ledger's salt never leaves, so the heads reveal nothing.
* A note in the ledger with the hash of the signed text is written first. Without it nothing is returned.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from typing import Any, Literal

from consortia.common.errors import InputError, RefusedError
from consortia.participant.account import run_account
from consortia.participant.agreement import agreed
from consortia.participant.home import Home
from consortia.participant.identity import load_identity
from consortia.trust.passport import statement as words
from consortia.trust.passport.envelope import signed
from privacy.events import event_size
from privacy.ledger import Ledger

__all__ = ["make_part"]

_TAKEN = ("relation", "epsilon", "delta", "budget", "non_private", "abandoned")


def make_part(home: Home, ledger: Ledger, run_id: str) -> dict[str, Any]:
    """Return the signed part of a run. Without an identity its envelope has no signature.

    Raises
    ------
    InputError
        The ledger has no such run, or the run charged nothing.
    LedgerBrokenError
        The ledger's chain does not match its entries.
    """
    part = _part(home, ledger, run_id)
    subjects = {"contract": part.contract_sha256}
    try:
        key = load_identity(home)
    except RefusedError:
        key = None
    envelope = signed(words.statement(words.PART_TYPE, subjects, part), key)
    digest = hashlib.sha256(base64.b64decode(envelope["payload"])).hexdigest()
    ledger.note({"what": "passport", "run": run_id, "sha256": digest})
    return envelope


def _part(home: Home, ledger: Ledger, run_id: str) -> words.Part:
    data = ledger.export()
    ours = {run["run_id"] for run in data["runs"] if run["run_id"] == run_id or run["run_id"].startswith(f"{run_id}/")}
    entries = [entry for entry in ledger.entries() if entry.run_id in ours]
    if not entries:
        raise InputError(f"{home.ledger}: wanted run {run_id} with something charged, got no such run; check its name")
    numbers = {str(entry.seq) for entry in entries}
    chain = [words.Head(counter=link["seq"], head=link["head"]) for link in data["chain"]]
    places = [
        place
        for place, link in enumerate(data["chain"])
        if (link["kind"] == "run" and link["ref"] in ours)
        or (link["kind"] in {"reserved", "committed"} and link["ref"] in numbers)
    ]
    contracts = {run["contract_sha256"] for run in data["runs"] if run["run_id"] in ours}
    if len(contracts) != 1:
        raise InputError(f"{home.ledger}: wanted one contract of run {run_id}, got {len(contracts)}")
    contract = contracts.pop()
    accounts = []
    for one in sorted(ours & {entry.run_id for entry in entries}):
        mine = [entry for entry in entries if entry.run_id == one]
        kinds: Counter[str] = Counter()
        for event in (event for entry in mine if entry.state == "committed" for event in entry.events):
            kinds[event.kind] += event_size(event)
        account = run_account(ledger, one, mine)
        accounts.append(
            words.Account(
                account=account["dataset"],
                horizon="run",
                unit=account["unit"],
                committed=dict(sorted(kinds.items())),
                **{key: account[key] for key in _TAKEN},
            )
        )
    return words.Part(
        participant=home.participant,
        run_id=run_id,
        contract_sha256=contract,
        code=words.code(),
        rows=_rows(home, accounts[0].account),
        accounts=tuple(accounts),
        ledger=words.LedgerHeads(before=chain[places[0] - 1], after=chain[places[-1]]),
        agreement=agreed(home, data, contract, places[0]),
    )


def _rows(home: Home, account: str) -> Literal["real", "synthetic"] | None:
    """Return whether the account counts real rows. Its first run fixed that (`Home.pin_rows`)."""
    file = home.ledger.with_name(f"rows-{account.partition('/')[0]}")
    if not file.is_file():
        return None
    return "synthetic" if file.read_text(encoding="utf-8") == "synthetic" else "real"
