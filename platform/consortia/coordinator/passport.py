"""The coordinator's half of a run's passport: its view, the hashes of the run's files, and the participants' parts.

Guarantee: about a participant it states released values only. It leaves out what a simulation's record holds besides
(exact metrics, receipts, counts of rows).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from consortia.common import environment
from consortia.common.errors import InputError
from consortia.common.strict import parse, read_record
from consortia.trust.passport import statement as words
from consortia.trust.passport.envelope import ForgedError, signed, strict_json
from consortia.trust.passport.leave import check_whole

__all__ = ["make_passport"]


def make_passport(
    folder: Path, parts: Path, key: ec.EllipticCurvePrivateKey | None, *, image: str = "", audit: Path | None = None
) -> dict[str, Any]:
    """Return the passport of a finished run.

    Parameters
    ----------
    folder : Path
        The coordinator's folder of the run.
    parts : Path
        Folder of the participants' parts, one NAME.json each. A participant without a file is listed without a part.
    key : EllipticCurvePrivateKey, optional
        The coordinator's key. Without it the passport is not signed.
    image : str
        Digest of the container image that the run used.
    audit : Path, optional
        What `consortia audit --json` printed for the run's contract.

    Raises
    ------
    InputError
        There is no finished run, a file does not match the record's hash, or a part or the audit belongs to something
        else.
    """
    check_whole(folder)
    record = read_record(folder / "result.json")
    subjects = environment.hashes(folder)
    if subjects != record["files"]:
        raise InputError(
            f"{folder}: wanted the files whose hashes result.json names, got others; put the run's own back"
        )
    names = record["participants"]
    if strangers := sorted({file.stem for file in parts.glob("*.json")} - set(names)):
        raise InputError(f"{parts}: wanted parts of {', '.join(names)}, got one of {strangers[0]!r}")
    passport = {
        **{key: record[key] for key in ("run_id", "scenario", "contract_sha256", "status", "rounds", "engine")},
        **{key: record[key] for key in ("observer", "noise")},
        "code": words.code().model_dump(),
        "image": image or None,
        "audit": _audit(audit, record["contract_sha256"]) if audit else None,
        "participants": {name: _seen(seen, parts / f"{name}.json", name, record) for name, seen in names.items()},
    }
    return signed(
        words.statement(words.PASSPORT_TYPE, subjects, parse(words.Passport, passport, str(folder / "result.json"))),
        key,
    )


def _seen(seen: Mapping[str, Any], file: Path, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    withdrawn = {one["industry"] for one in record.get("left", {}).values()}
    metrics = {
        kind: {"release": line["release"], "value": line["released_value"], "interval": line.get("interval")}
        for kind, line in seen["metrics"].items()
        # Where somebody left the metrics are of a withdrawn model; the certificate names them.
        if line.get("release") and line.get("released_value") is not None and seen["industry"] not in withdrawn
    }
    part = _part(file, name, record) if file.is_file() else None
    return {**{key: seen[key] for key in ("industry", "state", "rounds_contributed")}, "metrics": metrics, "part": part}


def _part(file: Path, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part after checking its participant, run and contract. `verify` checks its signature."""
    try:
        found = strict_json(file.read_bytes())
        envelope = parse(words.SignedStatement, found if isinstance(found, dict) else {}, str(file))
        stated = parse(words.PartStatement, strict_json(base64.b64decode(envelope.payload)), str(file)).predicate
    except (ForgedError, ValueError) as error:
        raise InputError(f"{file}: wanted a participant's part, got something else: {error}") from None
    for wanted, got in (
        (name, stated.participant),
        (record["run_id"], stated.run_id),
        (record["contract_sha256"], stated.contract_sha256),
    ):
        if wanted != got:
            raise InputError(f"{file}: wanted a part of {wanted}, got one of {got}; ask {name} for the one of this run")
    return dict(found)


def _audit(file: Path, contract: str) -> dict[str, Any]:
    data = read_record(file)
    if data.get("contract_sha256") != contract:
        raise InputError(f"{file}: wanted an audit of contract {contract[:12]}…, got one of another contract")
    return {
        "clean": data.get("clean"),
        "instruments": [one["instrument"] for one in data.get("instruments", []) if not one.get("skipped")],
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
