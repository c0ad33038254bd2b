"""The words of a certificate that a participant left a run, and what a run's folder says about who left.

A certificate is an in-toto statement in a DSSE envelope, as a passport is; its subjects are the files that were
rewritten. It holds no tensor and no coefficient of the withdrawn model: with them and the new model the leaver's noisy
sums could be worked out again.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from consortia.common.errors import InputError
from consortia.common.strict import StrictModel, parse
from consortia.trust.passport.envelope import ForgedError, strict_json
from consortia.trust.passport.statement import (
    Code,
    Cost,
    InTotoStatement,
    Number,
    Sha256,
    SignedStatement,
    Subject,
    Text,
)

__all__ = [
    "FOLDER",
    "JOURNAL",
    "LEAVE_TYPE",
    "Change",
    "Departure",
    "Erased",
    "LeaveCertificate",
    "LeaveStatement",
    "Removed",
    "Replaced",
    "Replay",
    "Shaped",
    "check_whole",
    "check_with_everybody",
    "departures",
    "withdrawn",
]

#: Of a run: its certificates, NAME.json each; and what is being done while somebody leaves.
FOLDER: Final = "left"
JOURNAL: Final = "leaving.json"
LEAVE_TYPE: Final = "urn:consortia:leave-certificate:v1"

Names = Annotated[tuple[Text, ...], Field(min_length=1)]
#: Of a file below the run's folder; never one beside it.
File = Annotated[str, Field(max_length=200, pattern=r"^(checkpoints/|model/|updates/)?\.?[\w-][\w.-]*$")]
#: As `consortia.terms` has it: what names a participant or an industry names a file, too.
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]


class Removed(StrictModel):
    """A file that is gone: an unfinished draft, which may have held anything."""

    file: File
    before: Sha256


class Replaced(StrictModel):
    """A file that was written anew."""

    file: File
    before: Sha256
    after: Sha256


class Erased(Replaced):
    """A file that was written anew without the leaver's tensors; their names, never their numbers."""

    tensors: Names


class Change(StrictModel):
    """How the model's weights changed: L2 norms, the norm of the difference, and the largest single difference."""

    norm_before: Cost
    norm_after: Cost
    distance: Cost
    largest: Number


class Shaped(StrictModel):
    """What stays though the leaver shaped it. False: it had no part in it.

    Attributes
    ----------
    centre, radius : of message 1, in which the leaver's noisy sums were; the others' message 2 is made with them.
    learner : the rule that chose the learner read its declared number of units and its budget (no rows).
    expectation, columns : public constants of contract and schema.
    updates : of steps: the others' updates of later rounds are gradients at models that the leaver had shaped.
    """

    centre: bool
    radius: bool
    learner: bool
    expectation: Literal[False]
    columns: Literal[False]
    updates: Annotated[bool, Field(exclude_if=lambda did: not did)] = False


class Replay(StrictModel):
    """How the model of a run of steps was made anew: the kept updates of those who stay, added from the first round on.

    Attributes
    ----------
    rounds : how many were played again. With one the model is that of a run without the leaver; with more it is not.
    checkpoints : files of checkpoints whose models are the replay's now.
    says : what a replay is and is not.
    """

    rounds: Annotated[int, Field(ge=1)]
    checkpoints: Annotated[tuple[Replaced, ...], Field(min_length=1)]
    says: Names


class LeaveCertificate(StrictModel):
    """What the coordinator states about a participant that left."""

    run_id: Text
    contract_sha256: Sha256
    participant: Name
    industry: Name
    made: Text
    code: Code
    remaining: Names
    erased: Annotated[tuple[Erased, ...], Field(min_length=1)]
    removed: tuple[Removed, ...]
    model: Replaced
    withdrawn_passport: Sha256 | None
    withdrawn_metrics: dict[Text, Names]
    change: Change
    shaped: Shaped
    stays: Names
    not_undone: Names
    replay: Annotated[Replay | None, Field(exclude_if=lambda replay: replay is None)] = None

    @property
    def rewritten(self) -> tuple[Replaced, ...]:
        """The files that were written anew."""
        return (*self.erased, *(() if self.replay is None else self.replay.checkpoints), self.model)


class LeaveStatement(InTotoStatement):
    """The in-toto statement that the coordinator signs."""

    predicate_type: Annotated[Literal["urn:consortia:leave-certificate:v1"], Field(alias="predicateType")]
    predicate: LeaveCertificate


@dataclass(frozen=True)
class Departure:
    """Who left a run, as its folder says; nothing of it was checked against a key."""

    stated: LeaveCertificate
    subjects: tuple[Subject, ...]
    sha256: str

    def sentence(self) -> str:
        """Return what whoever uses the run's results has to know."""
        one = self.stated
        what = "sums" if one.replay is None else "updates (a replay, not a training without it)"
        return (
            f"{one.participant} left this run ({one.made}): the model of {one.industry} was made anew without its "
            f"{what}; metrics, gains and receipts of this run are of the withdrawn model"
        )


def check_whole(folder: Path) -> None:
    """Refuse a run in whose files somebody's leaving was interrupted (InputError)."""
    if (folder / JOURNAL).exists():
        raise InputError(
            f"{folder}: wanted a whole run, got one in which leaving was interrupted; run the same `consortia leave` "
            "again, which completes it"
        )


def check_with_everybody(folder: Path) -> None:
    """Refuse to go on with a run that somebody left: its closing evaluation would be a new release (InputError)."""
    check_whole(folder)
    if gone := departures(folder):
        names = ", ".join(one.stated.participant for one in gone)
        raise InputError(f"{folder}: wanted a run with everybody, got one that {names} left; start a new run")


def departures(folder: Path) -> list[Departure]:
    """Return who left, in the order of names.

    Raises
    ------
    InputError
        A file there is no certificate of the participant that it is named after.
    """
    return [_departure(file) for file in sorted((folder / FOLDER).glob("*.json"))]


def withdrawn(folder: Path, industry: str) -> str:
    """Return why the first model of an industry is withdrawn; nothing where nobody left it."""
    return "; ".join(one.sentence() for one in departures(folder) if one.stated.industry == industry)


def _departure(file: Path) -> Departure:
    data = file.read_bytes()
    try:
        found = strict_json(data)
        envelope = parse(SignedStatement, found if isinstance(found, dict) else {}, str(file))
        stated = parse(LeaveStatement, strict_json(base64.b64decode(envelope.payload)), str(file))
    except (ForgedError, ValueError) as error:
        raise InputError(f"{file}: wanted a certificate of leaving, got something else: {error}") from None
    if stated.predicate.participant != file.stem:
        raise InputError(f"{file}: wanted the certificate of {file.stem}, got one of {stated.predicate.participant}")
    return Departure(stated.predicate, stated.subject, hashlib.sha256(data).hexdigest())
