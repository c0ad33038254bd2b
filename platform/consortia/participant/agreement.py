"""A participant's agreement to a contract: signed with its own identity, kept beside its policy.

Guarantee: where the policy says `allow.signed = true`, a listed contract counts only with an agreement that this
participant's identity signed, for this very contract, data set and unit, that is not over and was not withdrawn, and
whose ε and δ cover what the run may take: of the training units and, where metrics leave, of the evaluation units.
Anything else is refused before a row is read or anything is charged.
`consortia agree` is the only writer; it lists the contract, says `signed = true`, and leaves a note in the ledger. What
was signed is kept under its own hash, also after it was withdrawn: there it accepts nothing, and a passport names it.
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
    Measured,
    SignedStatement,
    statement,
)
from privacy.ledger import Budget, Ledger, RunPlan

__all__ = [
    "agreed",
    "agreed_contracts",
    "check_opened",
    "check_signed",
    "check_there",
    "measured",
    "read",
    "sign",
    "taken",
    "withdraw",
]

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
    digest = _digest(envelope)
    kept, file = _kept(home, digest), _file(home, agreement.contract_sha256)
    for one in (kept, file):
        one.parent.mkdir(mode=0o700, exist_ok=True)
    write_json(kept, envelope)
    ledger.note({**_note(agreement.contract_sha256, "signed"), "sha256": digest})
    write_json(file, envelope)  # last: nothing is in force that the ledger does not say
    return digest


def withdraw(home: Home, ledger: Ledger, contract_sha256: str) -> None:
    """Note in the ledger that the agreement ended, and remove it; InputError where there is none.

    What was signed stays under its hash, where it accepts nothing.
    """
    check_there(home, contract_sha256)
    ledger.note(_note(contract_sha256, "withdrawn"))
    _file(home, contract_sha256).unlink()  # last: whoever withdraws again after a failure completes it


def check_there(home: Home, contract_sha256: str) -> None:
    """Raise `InputError` where there is no agreement to withdraw."""
    file = _file(home, contract_sha256)
    if not file.is_file():
        raise InputError(f"{file}: wanted an agreement to withdraw, got none; check participant and scenario")


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
    _check_covered(home, agreement, taken(policy, contract, proposal))
    if contract.vertical is None and terms.industry in contract.industries:
        _check_measured(home, agreement, measured(policy, contract.of(terms.industry), terms.industry))


def taken(policy: Policy, contract: Contract, proposal: Proposal) -> Budget | None:
    """Return what a run may take of the training units; None where something leaves without noise.

    A partner of a vertical run pays what the contract says of its scores, whatever is proposed.
    """
    vertical = contract.vertical
    if vertical is not None and policy.participant in vertical.partners:
        if vertical.scores_epsilon is None or vertical.model_privacy is None:
            return None
        return Budget(vertical.scores_epsilon, vertical.model_privacy.delta)
    if proposal.epsilon is None:
        return None
    allowed = policy.budget.of(contract)
    return Budget(min(proposal.epsilon, allowed.epsilon), min(proposal.delta, allowed.delta))


def measured(policy: Policy, part: Contract, industry: str) -> Measured | None:
    """Return what released metrics may cost the evaluation units under an industry's part of a contract; None where
    none leaves.

    Raises
    ------
    RefusedError
        RELEASE_NOT_ALLOWED when the policy has no budget for them.
    """
    metrics, own = part.evaluation.metrics, policy.budget.evaluation
    if metrics == "none":
        return None
    terms = part.evaluation.groups.get(industry)
    by = None if terms is None else terms.column
    if metrics == "exact":
        return Measured(epsilon=None, delta=0.0, by=by)
    if own is None:
        raise RefusedError("RELEASE_NOT_ALLOWED", "budget.evaluation: wanted run and lifetime, to pay for metrics")
    return Measured(epsilon=own.run.epsilon, delta=own.run.delta, by=by)


def check_opened(home: Home, policy: Policy, contract: Contract, plan: RunPlan) -> None:
    """Raise `RefusedError` (CONTRACT_NOT_ALLOWED) where a run was opened with more than the agreement covers today.

    What a run takes goes by the plan that its first message fixed, whatever a later message proposes; the agreement may
    have been signed anew since, for less. Nothing is proposed for metrics: their account goes by the policy alone.
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
    return _opened(home, file, contract_sha256) if file.is_file() else None


def _opened(home: Home, file: Path, contract_sha256: str) -> Agreement:
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


def agreed(home: Home, ledger: dict[str, Any], contract_sha256: str, run: int) -> Agreed | None:
    """Return what a passport says of the agreement in force when a run was opened; None where nothing was signed.

    Parameters
    ----------
    ledger : dict
        The ledger's export.
    run : int
        Place of the run's first link in the chain: what was signed or withdrawn after it does not count.
    """
    notes = {str(one["id"]): one["note"] for one in ledger["notes"]}
    before = [notes[link["ref"]] for link in ledger["chain"][:run] if link["kind"] == "note"]
    ours = [note for note in before if (note.get("what"), note.get("contract")) == ("agreement", contract_sha256)]
    if not ours or ours[-1]["state"] != "signed":
        return None
    digest = ours[-1]["sha256"]
    for file in (_kept(home, digest), _file(home, contract_sha256)):  # homes of before keep the last one alone
        if file.is_file() and (found := _signed(home, file, contract_sha256, digest)) is not None:
            return Agreed(sha256=digest, purpose=found.purpose, until=found.until)
    return Agreed(sha256=digest, purpose=None, until=None)


def _signed(home: Home, file: Path, contract_sha256: str, digest: str) -> Agreement | None:
    """Return what a file says, if it is what was signed under this hash."""
    try:
        if _digest(json.loads(file.read_text(encoding="utf-8"))) != digest:
            return None
        return _opened(home, file, contract_sha256)
    except (ValueError, KeyError, TypeError, RefusedError):
        return None


def _check_covered(home: Home, agreement: Agreement, wanted: Budget | None) -> None:
    """Refuse what is not covered: `wanted` is what a run may take, None for a non-private one."""
    if agreement.epsilon is None:
        return
    if wanted is None or wanted.epsilon > agreement.epsilon or wanted.delta > agreement.delta:
        raise _refused(home, agreement.contract_sha256, f"the run may take more than was agreed; {_AGREE} anew")


def _check_measured(home: Home, agreement: Agreement, wanted: Measured | None) -> None:
    """Refuse metrics that are not covered; an agreement of before says nothing of metrics, so it covers none."""
    agreed_to = agreement.metrics
    if wanted is None or (agreed_to is not None and agreed_to.epsilon is None):
        return
    if agreed_to is None:
        raise _refused(home, agreement.contract_sha256, f"it says nothing of metrics, which leave; {_AGREE} anew")
    if wanted.epsilon is None or wanted.epsilon > (agreed_to.epsilon or 0.0) or wanted.delta > agreed_to.delta:
        raise _refused(home, agreement.contract_sha256, f"metrics may cost more than was agreed; {_AGREE} anew")


def _file(home: Home, contract_sha256: str) -> Path:
    return home.kept / "agreements" / f"{contract_sha256}.json"


def _kept(home: Home, digest: str) -> Path:
    return home.kept / "agreed" / f"{digest}.json"


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
