"""Detects a ledger that was rolled back or replaced, using two independent anchors.

Guarantees
----------
* Every charged reply carries the link of its reservation (`privacy/_chain.py`). The coordinator sends back the newest
  link that it has. If the ledger lacks this link (it was truncated, restored from a backup, deleted and made again, or
  continued differently), the participant refuses with LEDGER_BEHIND or LEDGER_FORKED before it reads a row or charges
  anything.
* The coordinator may lose the link, or a different coordinator may ask. So the participant also writes the newest link
  into `witness.json` after every reservation. The file is in its home or in the folder `$CONSORTIA_WITNESS`, which its
  owner puts where a backup of the home does not reach. `budget init` makes no new ledger while a witness of an old one
  exists.
* A link can only cause a refusal. A coordinator that sends a wrong one loses this participant's reply; nothing is
  charged, released or written.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from consortia.common import disk
from consortia.common.errors import InputError, RefusedError
from consortia.participant.home import Home
from consortia.terms.policy import Policy
from privacy.errors import LedgerBehindError, LedgerForkedError
from privacy.ledger import Anchor, Ledger

_ADVICE = (
    "nothing is released. Put the newest copy of ledger.db back (with its -wal file). If it is lost, what it "
    "had charged is unknown and counts as the whole lifetime budget: see docs/sharp_edges.md, 'A lost ledger'"
)


def witness_file(home: Home) -> Path:
    """Return the path of the participant's own witness."""
    folder = os.environ.get("CONSORTIA_WITNESS")
    return Path(folder) / f"{home.participant}.json" if folder else home.ledger.with_name("witness.json")


def _scratch(home: Home) -> bool:
    return home.simulation and home.ledger_folder is None


def check(home: Home, ledger: Ledger, returned: Anchor | None) -> None:
    """Refuse if either witness has a link that the ledger lacks.

    Raises
    ------
    RefusedError
        LEDGER_BEHIND or LEDGER_FORKED. The log at home says what to do.
    """
    for who, known in (("the coordinator", returned), ("witness.json", None if _scratch(home) else _read(home))):
        if known is None:
            continue
        try:
            ledger.check_anchor(known)
        except LedgerBehindError as error:
            raise RefusedError("LEDGER_BEHIND", f"{who} knows better: {error}; {_ADVICE}") from None
        except LedgerForkedError as error:
            raise RefusedError("LEDGER_FORKED", f"{who} knows another history: {error}; {_ADVICE}") from None


def keep(home: Home, anchor: Anchor | None) -> None:
    """Write the newest link to the participant's own witness, durably. A scratch ledger has none."""
    if anchor is None or _scratch(home):
        return
    path = witness_file(home)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with disk.settled(draft, path), os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"counter": anchor.counter, "head": anchor.head}, file)
        file.flush()
        os.fsync(file.fileno())


def _read(home: Home) -> Anchor | None:
    path = witness_file(home)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Anchor(int(data["counter"]), str(data["head"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        raise RefusedError(
            "LEDGER_FORKED", f"{path}: wanted counter and head of the ledger, got no such file"
        ) from None


def check_new(home: Home) -> None:
    """Refuse to make a ledger if a witness of a lost one exists.

    Raises
    ------
    InputError
        The error names the file and what its owner can do.
    """
    path = witness_file(home)
    if path.exists():
        raise InputError(
            f"{path}: wanted no witness of an older ledger, got one; that ledger has charged for releases of this "
            "data. Put it back. If it is lost, offer new data under a new name, and only then remove the witness"
        )


def note_budget(ledger: Ledger, policy: Policy) -> None:
    """Record the owner's budget in the chain if it has changed. This costs nothing."""
    ledger.note({"what": "budget", **policy.budget.model_dump(mode="json")})
