"""Homes whose ledgers hold a run, the coordinator's record of it, and keys: all that a passport is made of."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import SSlibKey

from consortia.common import environment
from consortia.common.disk import write_secret
from consortia.coordinator.passport import make_passport
from consortia.participant.home import Home
from consortia.participant.passport import make_part
from consortia.trust.passport.envelope import signed
from privacy.events import Event, GaussianRelease, LaplaceRelease, NonPrivate
from privacy.ledger import Budget, Ledger, RunPlan

CONTRACT = "c" * 64
RUN = "hospitals-1"


@cache
def key_of(name: str) -> ec.EllipticCurvePrivateKey:
    """Return the key of a name, the same in every test."""
    return ec.generate_private_key(ec.SECP384R1())


def pins(*names: str) -> dict[str, SSlibKey]:
    """Return the pinned keys of the coordinator and of these."""
    return {name: SSlibKey.from_crypto(key_of(name).public_key()) for name in ("coordinator", *names)}


def public_hex(name: str) -> str:
    """Return a public key as it is pinned in TOML."""
    encoding, kind = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return key_of(name).public_key().public_bytes(encoding, kind).hex()


def private_pem(name: str) -> bytes:
    """Return a private key as it lies in a file."""
    encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key_of(name).private_bytes(encoding, kind, serialization.NoEncryption())


def releases(kind: str, times: int, unit: str = "record") -> tuple[Event, ...]:
    """Return what a run releases once."""
    if kind == "non_private":
        return (NonPrivate(what="update", partition="train", unit=unit),)
    if kind == "laplace":
        return (LaplaceRelease(noise_multiplier=8.0, count=times, partition="train", unit=unit),)
    return (GaussianRelease(noise_multiplier=20.0, count=times, partition="train", unit=unit),)


def home_with_run(
    root: Path,
    name: str,
    *,
    run: str = RUN,
    contract: str = CONTRACT,
    kind: str = "gaussian",
    times: int = 2,
    unit: str = "record",
    abandoned: int = 0,
    before: int = 0,
    identity: bool = True,
) -> Home:
    """Make a home whose ledger holds a run, after `before` other ones; add the run where there is a ledger."""
    home = Home(root / name, name)
    if not home.ledger.exists():
        home.create()
        Ledger.create(home.ledger, name).close()
        if identity:
            write_secret(home.folder / "identity.pem", private_pem(name))
    (home.folder / "rows-heart").write_text("real")
    with Ledger.open(home.ledger, name) as ledger:
        for number in range(before):
            _charge(ledger, f"other-{number}", "d" * 64, releases("gaussian", 1, unit), 0)
        _charge(ledger, run, contract, releases(kind, times, unit), abandoned)
    return home


def _charge(ledger: Ledger, run: str, contract: str, events: tuple[Event, ...], abandoned: int) -> None:
    non_private = any(event.non_private for event in events)
    lifetime = Budget(float("inf"), 1e-3)
    plan = RunPlan(
        run_id=run,
        dataset="heart",
        contract_sha256=contract,
        unit=events[0].unit,
        declared_units=200,
        allowance=Budget(float("inf") if non_private else 50.0, 1e-5),
        noise_multiplier=0.0,
        sampling_rate=1.0,
        steps_per_round=1,
        rounds=1 + abandoned,
        clip=1.0,
        non_private=non_private,
        other_events=events,
        listed=True,
    )
    ledger.open_run(plan, lifetime)
    for number in range(1 + abandoned):
        kept = ledger.reserve(run, number, f"key {number}", events, lifetime=lifetime)
        if number == 0:
            ledger.commit(kept, b"reply")


def write_record(folder: Path, names: list[str], **changes: Any) -> Path:
    """Write a finished run's record with a model, as a simulation has it, and return the folder."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "hospital.safetensors").write_bytes(b"a model")
    auc = {"federated": 0.654321, "released": True, "release": "dp", "released_value": 0.7, "interval": [0.6, 0.8]}
    line = {"industry": "hospital", "state": "ACTIVE", "rounds_contributed": 1, "metrics": {"auc": auc}}
    record = {
        "schema": 1,
        "run_id": RUN,
        "scenario": "hospitals",
        "contract_sha256": CONTRACT,
        "engine": "embedded",
        "observer": "simulation",
        "noise": "operating system entropy",
        "status": "completed",
        "rounds": 1,
        "participants": dict.fromkeys(names, line),
        "files": environment.hashes(folder),
        **changes,
    }
    (folder / "result.json").write_text(json.dumps(record))
    return folder


@dataclass
class World:
    """A run's folder and homes, with its honest passport."""

    folder: Path
    names: list[str]
    envelope: dict[str, Any]


def world(root: Path, names: list[str], homes: dict[str, dict[str, Any]], **options: Any) -> World:
    """Make homes, record, parts and passport by the code that a real run uses."""
    folder = write_record(root / "runs" / RUN, names, **options.pop("record", {}))
    (folder / "parts").mkdir()
    for name in names:
        home = home_with_run(root / "homes", name, **homes.get(name, {}))
        with Ledger.open(home.ledger, name) as ledger:
            part = make_part(home, ledger, homes.get(name, {}).get("run", RUN))
        (folder / "parts" / f"{name}.json").write_text(json.dumps(part))
    return World(folder, names, make_passport(folder, folder / "parts", key_of("coordinator"), **options))


def payload(envelope: dict[str, Any]) -> Any:
    """Return what an envelope says, whoever signed it."""
    return json.loads(base64.b64decode(envelope["payload"]))


def told(envelope: dict[str, Any]) -> str:
    """Return every word of a passport, those of its parts decoded."""
    stated = payload(envelope)
    parts = [payload(seen.pop("part")) for seen in stated["predicate"]["participants"].values() if seen["part"]]
    return json.dumps([stated, parts])


def again(stated: Any, name: str) -> dict[str, Any]:
    """Sign a statement with a key."""
    return signed(stated, key_of(name))
