"""The data types of a passport: in-toto statements (v1) of a participant and of the coordinator.

A participant's part is a separate envelope inside the coordinator's statement, so neither side can change the other's.
Both types are strict: an unknown field is refused. There is no field for a row, a count of rows, a lifetime or another
run.
"""

from __future__ import annotations

import datetime
import hashlib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from consortia.common.strict import StrictModel

__all__ = [
    "AGREEMENT_TYPE",
    "PART_TYPE",
    "PASSPORT_TYPE",
    "PAYLOAD_TYPE",
    "STATEMENT_TYPE",
    "Account",
    "Agreed",
    "Agreement",
    "AgreementStatement",
    "Code",
    "Cost",
    "InTotoStatement",
    "Measured",
    "Number",
    "Part",
    "PartStatement",
    "Passport",
    "PassportStatement",
    "Sha256",
    "SignedStatement",
    "Subject",
    "Text",
    "code",
    "statement",
]

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PASSPORT_TYPE: Final = "urn:consortia:run-passport:v1"
PART_TYPE: Final = "urn:consortia:run-passport:participant:v1"
AGREEMENT_TYPE: Final = "urn:consortia:agreement:v1"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
#: No control, format or line separator characters: a text on a terminal must not change how the terminal behaves.
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]+$")]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Signature(StrictModel):
    """One signature of an envelope."""

    keyid: Sha256
    sig: Annotated[str, Field(max_length=700)]  # RSA of 4,096 bits, in base64


class SignedStatement(StrictModel):
    """A DSSE envelope."""

    payload: str
    payload_type: Annotated[Literal["application/vnd.in-toto+json"], Field(alias="payloadType")]
    signatures: tuple[Signature, ...]


class Digest(StrictModel):
    """The hash of a subject."""

    sha256: Sha256


class Subject(StrictModel):
    """What a statement is about: a file of the run, below its folder, or the contract."""

    name: Text
    digest: Digest

    @model_validator(mode="after")
    def _inside(self) -> Self:
        path = Path(self.name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError("a path below the run's folder")
        return self


class Code(StrictModel):
    """The code that made a part: the version, and a hash over all its Python sources."""

    version: Text
    sha256: Sha256


class Account(StrictModel):
    """What a run cost the units of one account. `epsilon` is None where something left without noise."""

    account: Text
    horizon: Literal["run"]
    unit: Text
    relation: Literal["add_or_remove_one", "change_one_label", "replace_one_row"]
    epsilon: Cost | None
    delta: Cost
    budget: Cost | None
    non_private: bool
    committed: dict[Text, Annotated[int, Field(ge=1)]]
    abandoned: Count


class Head(StrictModel):
    """A place in the ledger's hash chain: how many links, and the hash of the last."""

    counter: Count
    head: Sha256


class LedgerHeads(StrictModel):
    """Where the ledger stood before the run's first link and after its last."""

    before: Head
    after: Head


class Measured(StrictModel):
    """What released metrics of a run may cost the evaluation units: `epsilon` None where they leave without noise.

    `by` is the column by whose groups the final model is measured.
    """

    epsilon: Cost | None
    delta: Cost
    by: Text | None


class Agreement(StrictModel):
    """What a participant agrees to before a run; `epsilon` None promises nothing, `until` None has no end.

    `epsilon` is about the training units, `metrics` about the evaluation units; None where no metric leaves.
    """

    participant: Text
    scenario: Text
    contract_sha256: Sha256
    purpose: Text
    until: datetime.date | None
    dataset: Text
    unit: Text
    epsilon: Cost | None
    delta: Cost
    releases: Annotated[tuple[Text, ...], Field(min_length=1)]
    trust: Text
    others: tuple[Text, ...]
    metrics: Annotated[Measured | None, Field(exclude_if=lambda metrics: metrics is None)] = None


class Agreed(StrictModel):
    """The agreement in force when a run was opened: the SHA-256 of what was signed, its purpose, its last day.

    `purpose` is None where the home no longer keeps what was signed.
    """

    sha256: Sha256
    purpose: Text | None
    until: datetime.date | None


class Part(StrictModel):
    """What a participant states about a run, from its own ledger. `agreement` is None where it signed none."""

    participant: Text
    run_id: Text
    contract_sha256: Sha256
    code: Code
    rows: Literal["real", "synthetic"] | None
    accounts: Annotated[tuple[Account, ...], Field(min_length=1)]
    ledger: LedgerHeads
    agreement: Annotated[Agreed | None, Field(exclude_if=lambda agreed: agreed is None)] = None


class Metric(StrictModel):
    """A metric as it was released."""

    release: Literal["dp", "exact"]
    value: Number
    interval: tuple[Number, Number] | None


class Seen(StrictModel):
    """A participant as the coordinator saw it, with the part that the participant sent."""

    industry: Text
    state: Text
    rounds_contributed: Count
    metrics: dict[Text, Metric]
    part: SignedStatement | None


class Audit(StrictModel):
    """The result of `consortia audit` on the run's contract."""

    clean: bool
    instruments: tuple[Text, ...]
    sha256: Sha256


class Passport(StrictModel):
    """What the coordinator states about a run."""

    run_id: Text
    scenario: Text
    contract_sha256: Sha256
    status: Text
    rounds: Count
    engine: Text
    observer: Literal["coordinator", "simulation"]
    noise: Text
    code: Code
    image: Text | None
    audit: Audit | None
    participants: Annotated[dict[Text, Seen], Field(min_length=1)]


class InTotoStatement(StrictModel):
    """What every statement has."""

    type_: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[tuple[Subject, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [subject.name for subject in self.subject]
        if len(set(names)) != len(names):
            raise ValueError("each subject once")
        return self


class AgreementStatement(InTotoStatement):
    """The in-toto statement that a participant signs before a run; its subject is the contract."""

    predicate_type: Annotated[Literal["urn:consortia:agreement:v1"], Field(alias="predicateType")]
    predicate: Agreement


class PartStatement(InTotoStatement):
    """The in-toto statement that a participant signs; its subject is the contract."""

    predicate_type: Annotated[Literal["urn:consortia:run-passport:participant:v1"], Field(alias="predicateType")]
    predicate: Part


class PassportStatement(InTotoStatement):
    """The in-toto statement that the coordinator signs; its subjects are the files of the run."""

    predicate_type: Annotated[Literal["urn:consortia:run-passport:v1"], Field(alias="predicateType")]
    predicate: Passport


def statement(kind: str, subjects: dict[str, str], predicate: StrictModel) -> dict[str, Any]:
    """Return an in-toto statement.

    Parameters
    ----------
    kind : str
        `PART_TYPE` or `PASSPORT_TYPE`.
    subjects : dict of str to str
        SHA-256 by name.
    """
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in subjects.items()],
        "predicateType": kind,
        "predicate": predicate.model_dump(mode="json", by_alias=True),
    }


@cache
def code() -> Code:
    """Return version and hash of the code that runs here: of all Python files, each with its name."""
    total = hashlib.sha256()
    for package in ("clients", "consortia", "consortia_plugins", "privacy", "strategies"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations if spec else None) or ():
            for file in sorted(Path(folder).rglob("*.py")):
                name = f"{package}/{file.relative_to(folder).as_posix()}"
                total.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    try:
        number = version("consortia")
    except PackageNotFoundError:  # a source tree that is on the path without being installed
        number = "not installed"
    return Code(version=number, sha256=total.hexdigest())
