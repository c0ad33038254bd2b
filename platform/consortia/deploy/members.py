"""Keeps who takes part besides a scenario's roster, and who left.

    MEMBERS/cross-industry/members.toml     participants that joined, names that left
    MEMBERS/cross-industry/keys/NAME.pub    the public half of each joined participant's key
    MEMBERS/build                           the build of the coordinator's images, which kits name

The roster is not part of the contract, so nobody's policy has to change when somebody joins or leaves.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import tomli_w
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from consortia.common import acts
from consortia.common.errors import InputError
from consortia.common.strict import SUPPORTED_SCHEMA, StrictModel, check_schema, parse, read_toml
from consortia.terms.contract_fields import Name
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario


class Members(StrictModel):
    """The changes to a scenario's roster."""

    schema_version: Annotated[int, Field(alias="schema", ge=1)] = SUPPORTED_SCHEMA
    removed: tuple[Name, ...] = ()
    roster: tuple[RosterParticipant, ...] = ()


def build_file(root: Path) -> Path:
    """Return where the build of the coordinator's images is kept."""
    return root / "build"


class MemberFolder:
    """The folder of one scenario's members.

    Parameters
    ----------
    root : Path
        Holds one folder for each scenario.
    scenario : str
        The scenario's name.
    """

    def __init__(self, root: Path, scenario: str) -> None:
        self.root = root
        self.folder = root / scenario
        self.file = self.folder / "members.toml"

    def public_key(self, name: str) -> Path:
        """Return where the public half of a joined participant's key lies."""
        return self.folder / "keys" / f"{name}.pub"

    def load(self) -> Members:
        """Read the changes; without a file there are none.

        Raises
        ------
        InputError
            When the file is malformed.
        """
        if not self.file.is_file():
            return Members()
        data = read_toml(self.file)
        check_schema(data, str(self.file))
        return parse(Members, data, str(self.file))

    def with_participant(self, scenario: Scenario, participant: RosterParticipant) -> tuple[Members, Scenario]:
        """Return the changes and the scenario with one participant more; writes nothing.

        Raises
        ------
        InputError
            When the name is taken, or the scenario does not fit the participant.
        """
        members = self.load()
        if any(taken.name == participant.name for taken in apply(scenario, members).roster):
            raise InputError(
                f"{participant.name}: wanted a name that is not on the roster of {scenario.name}, got one that is"
            )
        if any(original.name == participant.name for original in scenario.roster):
            raise InputError(
                f"{participant.name}: wanted a new name, got one of the scenario's own roster that was removed; "
                f"delete it from `removed` in {self.file} to let it in again"
            )
        changed = Members(removed=members.removed, roster=(*members.roster, participant))
        return changed, apply(scenario, changed)

    def add(self, scenario: Scenario, participant: RosterParticipant, public_key: bytes | None) -> Scenario:
        """Write a participant and, if known, its key; return the scenario with it. Raises as `with_participant`."""
        changed, whole = self.with_participant(scenario, participant)
        with acts.noted(self.root, "participant.add", f"{scenario.name}/{participant.name}"):
            if public_key is not None:
                self._put_key(participant.name, public_key)
            self._save(changed)
        return whole

    def put_key(self, name: str, public_key: bytes) -> None:
        """Write the public half of a participant's key, and note that."""
        with acts.noted(self.root, "participant.key", f"{self.folder.name}/{name}"):
            self._put_key(name, public_key)

    def _put_key(self, name: str, public_key: bytes) -> None:
        file = self.public_key(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(public_key)

    def remove(self, scenario: Scenario, name: str) -> Scenario:
        """Take a participant off the roster and its key away; return what is left.

        Raises
        ------
        InputError
            When nobody has that name, or nobody would be left. Nothing was written.
        """
        members = self.load()
        names = [participant.name for participant in apply(scenario, members).roster]
        if name not in names:
            raise InputError(f"{name}: wanted a participant of {scenario.name} ({', '.join(names)})")
        if len(names) == 1:
            raise InputError(f"{name}: wanted somebody to be left on the roster of {scenario.name}, got the last one")
        joined = tuple(participant for participant in members.roster if participant.name != name)
        own = any(participant.name == name for participant in scenario.roster)
        changed = Members(removed=(*members.removed, name) if own else members.removed, roster=joined)
        whole = apply(scenario, changed)
        with acts.noted(self.root, "participant.remove", f"{scenario.name}/{name}"):
            self._save(changed)
            self.public_key(name).unlink(missing_ok=True)
        return whole

    def _save(self, members: Members) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(f".{os.getpid()}")
        text = tomli_w.dumps(members.model_dump(mode="python", by_alias=True))
        draft.write_text(f"# Written by `consortia participant`.\n{text}", encoding="utf-8")
        draft.replace(self.file)


def apply(scenario: Scenario, members: Members) -> Scenario:
    """Return the scenario with the roster as it is now.

    Raises
    ------
    InputError
        When the scenario has no terms for a member's industry, or a name stands twice.
    """
    if members == Members():
        return scenario
    data = scenario.model_dump(mode="python", by_alias=True)
    kept = [participant for participant in data["roster"] if participant["name"] not in members.removed]
    data["roster"] = [*kept, *(participant.model_dump(mode="python", by_alias=True) for participant in members.roster)]
    return parse(Scenario, data, f"{scenario.name} with its members")


def read_public_key(path: Path) -> bytes:
    """Return a node key's public half in OpenSSH form.

    Raises
    ------
    InputError
        When there is none, or it is not on the curve that Flower's node authentication asks for.
    """
    wanted = "wanted the public half of an elliptic curve key in OpenSSH form (ssh-keygen -t ecdsa -b 384)"
    try:
        data = path.read_bytes()
        key = serialization.load_ssh_public_key(data)
    except OSError as error:
        raise InputError(f"{path}: {wanted}, got {type(error).__name__}; check the path") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path}: {wanted}, got something else; never send the private half") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InputError(f"{path}: {wanted}, got {type(key).__name__}")
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
