"""Checks what a certificate of leaving says, and the run's folder against it: offline, as `verify` does.

Guarantee: with a folder, no problem is found only where each rewritten file is the one that the certificate names, or
what a later certificate of the same key made of it; no checkpoint there holds a tensor of the leaver, whatever its
hash; and neither a removed draft nor the withdrawn passport is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import safetensors
from securesystemslib.signer import SSlibKey

from consortia.common.errors import InputError
from consortia.common.strict import listed, parse
from consortia.trust.passport import FILE
from consortia.trust.passport.envelope import ForgedError, opened, strict_json
from consortia.trust.passport.leave import FOLDER, LeaveStatement
from consortia.trust.passport.statement import SignedStatement

__all__ = ["leave_problems", "read_certificate"]


def read_certificate(data: bytes, key: SSlibKey) -> LeaveStatement:
    """Return the certificate that `key` signed; `ForgedError` for anything else."""
    try:
        found = strict_json(data)
        envelope = parse(SignedStatement, found if isinstance(found, dict) else {}, "it is not of its format")
        stated = opened(envelope, key)
        return parse(LeaveStatement, stated if isinstance(stated, dict) else {}, "it is not of its format")
    except InputError as error:
        raise ForgedError(error.problems[0]) from None


def leave_problems(stated: LeaveStatement, key: SSlibKey, folder: Path | None) -> list[str]:
    """Return what a signed certificate contradicts, a sentence for each."""
    said = stated.predicate
    found = []
    if {one.name: one.digest.sha256 for one in stated.subject} != {one.file: one.after for one in said.rewritten}:
        found.append("the subjects are not the files that were written anew")
    if said.participant in said.remaining:
        found.append(f"{said.participant}: is said to remain")
    if said.replay is not None and said.shaped.updates != (said.replay.rounds > 1):
        found.append("updates after the first round are shaped by whoever left, and those of the first are not")
    prefixes = tuple(f"{kind}/{said.industry}/{said.participant}/" for kind in ("memory", "updates"))
    found += [
        f"{one.file}: a tensor of somebody else is said to be erased"
        for one in said.erased
        if not all(tensor.startswith(prefixes) for tensor in one.tensors)
    ]
    return found if folder is None else [*found, *_in_folder(stated, key, folder, prefixes)]


def _in_folder(stated: LeaveStatement, key: SSlibKey, folder: Path, prefixes: tuple[str, ...]) -> Iterator[str]:
    said, later = stated.predicate, _later(folder, key)
    for subject in stated.subject:
        file, wanted = folder / subject.name, subject.digest.sha256
        if not file.is_file():
            yield f"{subject.name}: is missing in {folder}"
            continue
        got, seen = hashlib.sha256(file.read_bytes()).hexdigest(), {wanted}
        while wanted != got and (following := later.get((subject.name, wanted))) and following not in seen:
            wanted = following
            seen.add(wanted)
        if wanted != got:
            yield f"{subject.name}: is not the file of the certificate"
    for file in sorted(folder.rglob("*.safetensors*")):
        if "participants" in file.relative_to(folder).parts:
            continue  # homes of a simulation: what lies there is theirs
        try:
            with safetensors.safe_open(file, framework="np") as tensors:
                held = [name for name in tensors.keys() if name.startswith(prefixes)]  # noqa: SIM118 - not a dict
        except safetensors.SafetensorError:
            yield f"{file.relative_to(folder)}: cannot be read, so it may hold what was erased"
            continue
        if held:
            yield f"{file.relative_to(folder)}: holds {listed(held)}"
    yield from (f"{one.file}: is still there" for one in said.removed if (folder / one.file).exists())
    passport = folder / FILE
    if passport.is_file() and hashlib.sha256(passport.read_bytes()).hexdigest() == said.withdrawn_passport:
        yield f"{FILE}: is the withdrawn one"


def _later(folder: Path, key: SSlibKey) -> dict[tuple[str, str], str]:
    """Return what each file with a hash became when somebody left, by certificates that the key signed."""
    steps: dict[tuple[str, str], str] = {}
    for file in sorted((folder / FOLDER).glob("*.json")):
        try:
            said = read_certificate(file.read_bytes(), key).predicate
        except ForgedError:
            continue
        steps |= {(one.file, one.before): one.after for one in said.rewritten}
    return steps
