"""A participant's agreement to a contract: signed with its own identity, kept beside its policy.

Guarantee: where the policy says `allow.signed = true`, a listed contract counts only with an agreement that this
participant's identity signed, for this very contract, data set and unit, that is not over and was not withdrawn, and
whose ε and δ cover what the run may take. Anything else is refused before a row is read or anything is charged.
`consortia agree` is the only writer; it lists the contract, says `signed = true`, and leaves a note in the ledger.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

from securesystemslib.signer import SSlibKey

from consortia.common.disk import write_json
from consortia.common.errors import InputError, RefusedError
from consortia.common.strict import parse
from consortia.participant.home import Home
from consortia.participant.identity import load_identity
from consortia.terms.contract import Contract
from consortia.terms.policy import Policy, Proposal
from consortia.trust.passport.envelope import ForgedError, opened, signed, strict_json
from consortia.trust.passport.statement import (
    AGREEMENT_TYPE,
    Agreed,
    Agreement,
    AgreementStatement,
    SignedStatement,
    statement,
)
from privacy.ledger import Budget, Ledger, RunPlan

__all__ = ["agreed", "agreed_contracts", "check_opened", "check_signed", "read", "sign", "withdraw"]

_AGREE = "read it and sign it with `consortia agree`"


def sign(home: Home, ledger: Ledger, agreement: Agreement) -> str:
    """Write the signed agreement and note it in the ledger; return its SHA-256.

    Raises
    ------
    RefusedError
        NO_IDENTITY when the participant has no key.
    """
    envelope = signed(
        statement(AGREEMENT_TYPE, {"contract": agreement.contract_sha256}, agreement), load_identity(home)
    )
    file = _file(home, agreement.contract_sha256)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    write_json(file, envelope)
    digest = _digest(envelope)
    ledger.note({**_note(agreement.contract_sha256, "signed"), "sha256": digest})
    return digest


def withdraw(home: Home, ledger: Ledger, contract_sha256: str) -> None:
    """Note in the ledger that the agreement ended, and remove it; InputError where there is none."""
    file = _file(home, contract_sha256)
    if not file.is_file():
        raise InputError(f"{file}: wanted an agreement to withdraw, got none; check participant and scenario")
    ledger.note(_note(contract_sha256, "withdrawn"))
    file.unlink()  # last: whoever withdraws again after a failure completes it


def agreed_contracts(home: Home) -> list[str]:
    """Return the SHA-256 of every contract with an agreement here, valid or not."""
    return sorted(file.stem for file in _file(home, "").parent.glob("*.json"))


def check_signed(home: Home, policy: Policy, contract: Contract, proposal: Proposal | None = None) -> None:
    """Raise `RefusedError` (CONTRACT_NOT_ALLOWED) unless the policy needs no agreement, or a valid one covers the run.

    Parameters
    ----------
    proposal : Proposal, optional
        What the coordinator proposes; without it, as before the first message, budget and data set are not compared.
    """
    if not policy.allow.signed:
        return
    agreement = read(home, contract.sha256())
    if agreement is None:
        raise _refused(home, contract.sha256(), f"wanted a signed agreement, got none; {_AGREE}")
    if agreement.until is not None and datetime.datetime.now(datetime.UTC).date() > agreement.until:
        raise _refused(home, contract.sha256(), f"it ended with {agreement.until}; {_AGREE} anew")
    if proposal is None:
        return
    terms = policy.dataset.get(proposal.dataset)
    if terms is None or (agreement.dataset, agreement.unit) != (proposal.dataset, terms.unit):
        raise _refused(home, contract.sha256(), f"it is about another data set or unit; {_AGREE} anew")
    asked = None
    if proposal.epsilon is not None:
        allowed = policy.budget.of(contract)
        asked = Budget(min(proposal.epsilon, allowed.epsilon), min(proposal.delta, allowed.delta))
    _check_covered(home, agreement, asked)


def check_opened(home: Home, policy: Policy, contract: Contract, plan: RunPlan) -> None:
    """Raise `RefusedError` (CONTRACT_NOT_ALLOWED) where a run was opened with more than the agreement covers today.

    What a run takes goes by the plan that its first message fixed, whatever a later message proposes; the agreement may
    have been signed anew since, for less.
    """
    if not policy.allow.signed:
        return
    agreement = read(home, contract.sha256())
    if agreement is None:
        raise _refused(home, contract.sha256(), f"wanted a signed agreement, got none; {_AGREE}")
    _check_covered(home, agreement, None if plan.non_private else plan.allowance)


def read(home: Home, contract_sha256: str) -> Agreement | None:
    """Return the agreement to a contract, its signature checked; None where there is none.

    Raises
    ------
    RefusedError
        CONTRACT_NOT_ALLOWED when it is forged, damaged or about something else; NO_IDENTITY without a key.
    """
    file = _file(home, contract_sha256)
    if not file.is_file():
        return None
    key = SSlibKey.from_crypto(load_identity(home).public_key())
    try:
        envelope = parse(SignedStatement, _object(strict_json(file.read_bytes())), str(file))
        stated = parse(AgreementStatement, _object(opened(envelope, key)), str(file))
    except (ForgedError, InputError, OSError) as error:
        raise _refused(home, contract_sha256, f"it is no agreement that this participant signed: {error}") from None
    agreement = stated.predicate
    if (agreement.participant, agreement.contract_sha256) != (home.participant, contract_sha256):
        raise _refused(home, contract_sha256, "it is the agreement of another participant or to another contract")
    return agreement


def agreed(home: Home, contract_sha256: str) -> Agreed | None:
    """Return what a passport says of the agreement; None where nothing valid was signed."""
    try:
        found = read(home, contract_sha256)
    except RefusedError:
        return None
    if found is None:
        return None
    envelope = json.loads(_file(home, contract_sha256).read_text(encoding="utf-8"))
    return Agreed(sha256=_digest(envelope), purpose=found.purpose, until=found.until)


def _check_covered(home: Home, agreement: Agreement, taken: Budget | None) -> None:
    """Refuse what is not covered: `taken` is what a run may take, None for a non-private one."""
    if agreement.epsilon is None:
        return
    if taken is None or taken.epsilon > agreement.epsilon or taken.delta > agreement.delta:
        raise _refused(home, agreement.contract_sha256, f"the run may take more than was agreed; {_AGREE} anew")


def _file(home: Home, contract_sha256: str) -> Path:
    return home.kept / "agreements" / f"{contract_sha256}.json"


def _digest(envelope: dict[str, Any]) -> str:
    return hashlib.sha256(base64.b64decode(envelope["payload"])).hexdigest()


def _note(contract_sha256: str, state: str) -> dict[str, Any]:
    return {"what": "agreement", "contract": contract_sha256, "state": state}


def _object(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ForgedError("wanted a JSON object, got something else")
    return found


def _refused(home: Home, contract_sha256: str, why: str) -> RefusedError:
    return RefusedError("CONTRACT_NOT_ALLOWED", f"{_file(home, contract_sha256)}: {why}")
