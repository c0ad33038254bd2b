"""What participant, coordinator and passports refuse of files and replies that only a stranger would make."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from passports import key_of, pins, private_pem, public_hex
from pydantic import ValidationError

from consortia.common.errors import InputError
from consortia.coordinator import received_metrics
from consortia.coordinator.mailbox import is_refusal
from consortia.messages.envelope import Envelope
from consortia.participant import backup, ledger_witness
from consortia.participant.home import Home
from consortia.participant.metrics_release import noise_of
from consortia.participant.own_model import from_bytes
from consortia.participant.trees import Trees
from consortia.terms.contract import Contract
from consortia.terms.scenario import load_scenario
from consortia.trust.passport.envelope import ForgedError, opened, signed, strict_json
from consortia.trust.passport.keys import private_key, public_keys
from consortia.trust.passport.statement import InTotoStatement, SignedStatement, Subject
from privacy.errors import PrivacyError
from privacy.events import NonPrivate

PASSPHRASE = "a passphrase of a test"


def an_archive(folder: Path, *entries: tarfile.TarInfo) -> Path:
    """Write a backup that opens with the passphrase and holds these entries."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for entry in entries:
            archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    head = backup._MAGIC + bytes([10]) + bytes(backup._SALT + backup._NONCE)
    key = backup._key(PASSPHRASE.encode(), bytes(backup._SALT), 10)
    (folder / "home.backup").write_bytes(
        head + AESGCM(key).encrypt(bytes(backup._NONCE), plain.getvalue(), head)  # as `write_backup` seals it
    )
    return folder / "home.backup"


def a_link(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return entry


@pytest.mark.parametrize(
    "entry",
    [tarfile.TarInfo("../policy.toml"), tarfile.TarInfo("/etc/cron.d/x"), a_link("policy.toml")],
    ids=["above", "absolute", "link"],
)
def test_a_backup_writes_nothing_beside_the_home(tmp_path: Path, entry: tarfile.TarInfo) -> None:
    home = Home(tmp_path / "home", "clinic-a")
    with pytest.raises(InputError, match="plain files below the home"):
        backup.restore(home, an_archive(tmp_path, entry), PASSPHRASE)
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["home.backup"]


def test_a_new_ledger_beside_the_witness_of_a_lost_one_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", "clinic-a")
    ledger_witness.check_new(home)
    file = ledger_witness.witness_file(home)
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    with pytest.raises(InputError, match="no witness of an older ledger"):
        ledger_witness.check_new(home)


def test_a_participant_at_work_is_waited_for_no_longer_than_was_asked(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", "clinic-a")
    home.folder.mkdir()
    with home.exclusive(0.0), pytest.raises(TimeoutError, match="still at work"), home.exclusive(0.0):
        pytest.fail("two messages at a time")


def test_files_and_events_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match="of schema 1, got '99'"):
        from_bytes(safetensors.torch.save({}, metadata={"schema": "99"}), "here")
    with pytest.raises(ValueError, match="eight tensors by name, got start"):
        Trees(start=torch.zeros(1))
    with pytest.raises(PrivacyError, match="NonPrivate has no noise"):
        noise_of(NonPrivate(what="metrics", partition="evaluation", unit="record"))


# Keys and signatures


def test_a_key_on_another_curve_is_neither_pinned_nor_signed_with(tmp_path: Path) -> None:
    other, file = ec.generate_private_key(ec.SECP256R1()), tmp_path / "coordinator.pem"
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    file.write_bytes(other.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(InputError, match="got another kind of key"):
        public_keys(tmp_path)
    file.write_bytes(other.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
    for place in (file, tmp_path / "none.pem"):
        with pytest.raises(InputError, match=r"wanted an? .*private key"):
            private_key(place)
    (tmp_path / "pins.toml").write_text(f'clinic-a = "{public_hex("clinic-a")}"')
    with pytest.raises(InputError, match="a key called coordinator, got clinic-a"):
        public_keys(tmp_path / "pins.toml")
    file.write_bytes(private_pem("coordinator"))
    assert private_key(file).public_key() == key_of("coordinator").public_key()


def test_a_statement_that_was_changed_or_reads_in_two_ways_is_refused() -> None:
    key = pins()["coordinator"]
    texts = (json.dumps(signed({"rounds": rounds}, key_of("coordinator"))) for rounds in (1, 2))
    envelope, other = (SignedStatement.model_validate_json(text) for text in texts)
    assert opened(envelope, key) == {"rounds": 1}
    with pytest.raises(ForgedError, match="was changed after it was signed"):
        opened(envelope.model_copy(update={"payload": other.payload}), key)
    with pytest.raises(ForgedError, match="not in base64"):
        opened(envelope.model_copy(update={"payload": f"{envelope.payload}\n"}), key)
    for text, told in ((b'{"a": 1, "a": 2}', "a key twice"), (b'{"a": NaN}', "damaged"), (b"\xff", "damaged")):
        with pytest.raises(ForgedError, match=told):
            strict_json(text)


@pytest.mark.parametrize("name", ["../run-2/model", "/etc/passwd", "model/../../x"])
def test_a_subject_lies_below_the_run(name: str) -> None:
    with pytest.raises(ValidationError, match="below the run's folder"):
        Subject.model_validate({"name": name, "digest": {"sha256": "0" * 64}})


def test_a_statement_names_each_subject_once() -> None:
    one = {"name": "model", "digest": {"sha256": "0" * 64}}
    stated = {"_type": "https://in-toto.io/Statement/v1", "subject": [one, one]}
    with pytest.raises(ValidationError, match="each subject once"):
        InTotoStatement.model_validate_json(json.dumps(stated))


# Replies


@pytest.fixture(scope="module")
def exact() -> Contract:
    """A contract whose metrics leave without noise."""
    contract = load_scenario("banks-network").contract
    return contract.model_copy(update={"evaluation": contract.evaluation.model_copy(update={"metrics": "exact"})})


HEADER = {"metrics_partition": "validation", "metrics_non_private": "true"}


@pytest.mark.parametrize(
    ("header", "metrics", "told"),
    [
        ({"metrics_non_private": "false"}, {}, "wanted 'true' with exact metrics"),
        ({}, {"metrics.rows": torch.ones(1)}, "metrics.rows: wanted one of"),
        ({}, {"metrics.auc": torch.ones(2)}, "metrics.auc: wanted one finite number"),
        ({}, {"metrics.auc": torch.tensor([float("inf")])}, "metrics.auc: wanted one finite number"),
        ({}, {"metrics.auc": torch.ones(1, dtype=torch.int64)}, "metrics.auc: wanted one finite number"),
    ],
)
def test_exact_metrics_are_numbers_that_the_client_has(
    exact: Contract, header: dict[str, str], metrics: dict[str, torch.Tensor], told: str
) -> None:
    read: Callable[..., Any] = received_metrics.read
    good = read(HEADER, {"metrics.auc": torch.tensor([0.75])}, exact, "bank", "validation")
    assert (good.estimates["auc"].value, good.exact) == (0.75, True)
    with pytest.raises(ValueError, match=told):
        read({**HEADER, **header}, metrics, exact, "bank", "validation")


def test_a_refusal_comes_from_whom_it_names_and_carries_nothing() -> None:
    assert is_refusal(Envelope({"participant": "a", "status": "FAILED"}, {}), "a")
    with pytest.raises(ValueError, match="names another participant"):
        is_refusal(Envelope({"participant": "b", "status": "FAILED"}, {}), "a")
    with pytest.raises(ValueError, match="carries content"):
        is_refusal(Envelope({"participant": "a", "status": "FAILED"}, {"w": torch.ones(1)}), "a")
