"""Checks a passport, or a certificate of leaving. It needs only the pinned keys: no network, no run and no ledger.

Guarantee: `check` finds no problem only if all of this holds. The coordinator's pinned key signed the statement. The
pinned key of every participant signed that participant's part. All statements name the same run and contract. Nobody is
missing: the pinned names are exactly the names in the passport. The check does not show that the statements are true;
their signers are responsible for that. An auditor can compare the ledgers' heads with an exported ledger.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from securesystemslib.signer import SSlibKey

from consortia.common.errors import InputError
from consortia.common.strict import StrictModel, parse
from consortia.trust.passport.envelope import ForgedError, opened, strict_json
from consortia.trust.passport.keys import COORDINATOR
from consortia.trust.passport.leave import FOLDER, LEAVE_TYPE, LeaveCertificate, LeaveStatement
from consortia.trust.passport.statement import (
    Part,
    PartStatement,
    Passport,
    PassportStatement,
    Seen,
    SignedStatement,
)
from consortia.trust.passport.verify_leave import leave_problems

__all__ = ["Verdict", "check"]

#: Largest size of a passport in bytes. A check takes time, and a passport of 1,000 participants has only 3 MB.
_LARGEST: Final = 2**24
_SLACK: Final = 1 + 1e-6
M = TypeVar("M", bound=StrictModel)


@dataclass
class Verdict:
    """What was found.

    Attributes
    ----------
    problems : list of str
        One sentence for each part that is missing or forged; empty if the passport is valid.
    passport : Passport, optional
        What the coordinator signed; None unless its signature is valid and the file is a passport.
    parts : dict of str to Part
        What each participant signed; only parts with a valid signature, the participant's own name and its contract.
    left : LeaveCertificate, optional
        What the coordinator signed where the file is a certificate of leaving.
    certificates : tuple of str
        Files of the run by which participants left it, as the passport names them.
    """

    problems: list[str] = field(default_factory=list)
    passport: Passport | None = None
    parts: dict[str, Part] = field(default_factory=dict)
    left: LeaveCertificate | None = None
    certificates: tuple[str, ...] = ()


def check(data: bytes, keys: Mapping[str, SSlibKey], folder: Path | None = None) -> Verdict:
    """Check a passport, or a certificate of leaving, which the coordinator's key alone signs.

    Parameters
    ----------
    data : bytes
        The file.
    keys : mapping of str to SSlibKey
        From `consortia.trust.passport.keys.public_keys`.
    folder : Path, optional
        The run's folder; its files are compared with their hashes.
    """
    verdict = Verdict()
    try:
        if len(data) > _LARGEST:
            raise ForgedError(f"wanted at most {_LARGEST} bytes, got {len(data)}")
        outer = _as(SignedStatement, strict_json(data))
        said = opened(outer, keys[COORDINATOR])
        if isinstance(said, dict) and said.get("predicateType") == LEAVE_TYPE:
            left = _as(LeaveStatement, said)
            return Verdict(leave_problems(left, keys[COORDINATOR], folder), left=left.predicate)
        stated = _as(PassportStatement, said)
    except ForgedError as error:
        verdict.problems.append(f"{COORDINATOR}: the passport {error}")
        return verdict
    passport = verdict.passport = stated.predicate
    verdict.certificates = tuple(one.name for one in stated.subject if Path(one.name).parts[:1] == (FOLDER,))
    names = set(keys) - {COORDINATOR}
    verdict.problems += [
        f"{name}: is pinned, but not in the passport" for name in sorted(names - {*passport.participants})
    ]
    for name, seen in sorted(passport.participants.items()):
        try:
            part = verdict.parts[name] = _part(name, seen, keys)
        except ForgedError as error:
            verdict.problems.append(f"{name}: {error}")
        else:
            verdict.problems += [f"{name}: {problem}" for problem in _disagreements(part, passport)]
    verdict.problems += _shared_ledgers(verdict.parts)
    if passport.audit is not None and not passport.audit.clean:
        verdict.problems.append("audit: it found a violation")
    if folder is not None:
        verdict.problems += _changed_files(stated, folder)
    return verdict


def _part(name: str, seen: Seen, keys: Mapping[str, SSlibKey]) -> Part:
    if name == COORDINATOR:
        raise ForgedError("wanted another name for a participant: this one is the coordinator's")
    if name not in keys:
        raise ForgedError("is in the passport, but no key of it is pinned")
    if seen.part is None:
        raise ForgedError("its part is missing")
    try:
        stated = _as(PartStatement, opened(seen.part, keys[name]))
    except ForgedError as error:
        raise ForgedError(f"its part {error}") from None
    part = stated.predicate
    if part.participant != name:
        raise ForgedError(f"its part is of {part.participant}")
    if [subject.digest.sha256 for subject in stated.subject] != [part.contract_sha256]:
        raise ForgedError("the subject of its part is not the contract that it names")
    return part


def _disagreements(part: Part, passport: Passport) -> list[str]:
    """Return the contradictions between the two statements."""
    found = []
    if part.run_id != passport.run_id:
        found.append(f"its part is of run {part.run_id}, the passport of run {passport.run_id}")
    if part.contract_sha256 != passport.contract_sha256:
        found.append("it took part under another contract than the passport's")
    if not part.ledger.before.counter < part.ledger.after.counter:
        found.append("its ledger did not grow from before the run to after it")
    elif part.ledger.before.head == part.ledger.after.head:
        found.append("its ledger has one head before the run and after it")
    if len({account.account for account in part.accounts}) != len(part.accounts):
        found.append("it states an account twice")
    for account in part.accounts:
        if (account.epsilon is None) != account.non_private:
            found.append(f"account {account.account}: ε is missing, or stated for what left without noise")
        elif account.epsilon is not None and account.budget is not None and account.epsilon > account.budget * _SLACK:
            found.append(f"account {account.account}: ε {account.epsilon:g} exceeds its budget {account.budget:g}")
    return found


def _shared_ledgers(parts: Mapping[str, Part]) -> list[str]:
    """Return the participants that state another one's ledger. A head depends on 32 random bytes, so no two ledgers
    share one."""
    first: dict[str, str] = {}
    return [
        f"{name}: states the ledger of {other}"
        for name, part in parts.items()
        for head in (part.ledger.before.head, part.ledger.after.head)
        if (other := first.setdefault(head, name)) != name
    ]


def _changed_files(stated: PassportStatement, folder: Path) -> list[str]:
    found = []
    for subject in stated.subject:
        file = folder / subject.name
        if not file.is_file():
            found.append(f"{subject.name}: is missing in {folder}")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != subject.digest.sha256:
            found.append(f"{subject.name}: is not the file of the passport")
    return found


def _as(model: type[M], data: Any) -> M:
    if not isinstance(data, dict):
        raise ForgedError("wanted a JSON object, got something else")
    try:
        return parse(model, data, "is not of its format")
    except InputError as error:
        raise ForgedError(error.problems[0]) from None
