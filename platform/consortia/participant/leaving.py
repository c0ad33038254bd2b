"""A certificate that somebody left a run, entered at a participant's home: the leaver's own, or that of another.

Guarantees
----------
* Nothing leaves, and nothing is charged or given back: the ε of the run stays spent.
* Only what the coordinator's pinned key signed, about a run and a contract that this ledger knows, is entered.
* The note in the ledger comes first; then the certificate lies in the run's folder, where exports look for it.
"""

from __future__ import annotations

import hashlib

from securesystemslib.signer import SSlibKey

from consortia.common import disk
from consortia.common.errors import InputError
from consortia.participant.home import Home
from consortia.trust.passport.envelope import ForgedError
from consortia.trust.passport.leave import FOLDER, LeaveCertificate
from consortia.trust.passport.verify_leave import leave_problems, read_certificate
from privacy.ledger import Ledger

__all__ = ["enter"]


def enter(home: Home, ledger: Ledger, run_id: str, data: bytes, key: SSlibKey) -> LeaveCertificate:
    """Note in the ledger that somebody left a run, and keep the certificate; entered again, nothing changes.

    Raises
    ------
    InputError
        It is not signed by that key, contradicts itself, or is of another run or contract than this ledger's.
    """
    try:
        stated = read_certificate(data, key)
        if problems := leave_problems(stated, key, None):
            raise ForgedError(problems[0])
    except ForgedError as error:
        raise InputError(f"--certificate: wanted one that the coordinator signed, got another: {error}") from None
    said = stated.predicate
    known = [plan for plan in ledger.runs() if plan.run_id == run_id or plan.run_id.startswith(f"{run_id}/")]
    if not known or said.run_id != run_id:
        wanted = run_id if known else f"a run of {home.participant}'s ledger"
        raise InputError(f"--certificate: wanted one of {wanted}, got one of {said.run_id}")
    if {plan.contract_sha256 for plan in known} != {said.contract_sha256}:
        raise InputError(f"--certificate: wanted the contract of {run_id} in this ledger, got another")
    ledger.note(
        {
            "what": "left",
            "run": run_id,
            "participant": said.participant,
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    )
    folder = home.run_folder(run_id) / FOLDER
    folder.mkdir(exist_ok=True)
    disk.replace(folder / f"{said.participant}.json", data)
    return said
