"""A passport holds what a run cost and released, nothing private, and is accepted as it was signed."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from finished_run import write_result, write_run
from passports import (
    CONTRACT,
    RUN,
    home_with_run,
    key_of,
    payload,
    pins,
    private_pem,
    public_hex,
    told,
    world,
    write_record,
)
from typer.testing import CliRunner

from consortia.common.errors import InputError
from consortia.coordinator.passport import make_passport
from consortia.participant.account import history
from consortia.participant.passport import make_part
from consortia.reports.page.closing import origin_section
from consortia.reports.page.facts import gather
from consortia.trust.passport.keys import public_keys
from consortia.trust.passport.statement import Account
from consortia.trust.passport.verify import check
from privacy.events import RELATIONS
from privacy.ledger import Ledger

KINDS = ("gaussian", "laplace", "non_private")


def _exact(value: float) -> dict[str, Any]:
    return {"auc": {"federated": value, "released": True, "release": "exact", "released_value": value}}


@pytest.mark.parametrize("seed", range(20))
def test_an_honest_passport_is_accepted(seed: int, tmp_path: Path) -> None:
    """From one to three participants, of every kind of account, with earlier runs, lost attempts, an audit."""
    names = ["clinic-a", "clinic-b", "clinic-c"][: 1 + seed % 3]
    homes = {
        name: {
            "kind": KINDS[(seed + place) % 3],
            "times": 1 + seed,
            "unit": ("record", "patient_id", "Kunde (ä)")[seed % 3],
            "abandoned": (seed + place) % 2,
            "before": seed % 4 // 2,
        }
        for place, name in enumerate(names)
    }
    line = {"industry": "bank", "state": "ACTIVE", "rounds_contributed": seed, "metrics": _exact(seed / 20)}
    record: dict[str, Any] = {"rounds": seed, "observer": ("simulation", "coordinator")[seed % 2]}
    if seed % 4 == 1:
        record |= {"status": "stopped", "participants": dict.fromkeys(names, line)}
    audit = tmp_path / "audit.json"
    instruments = [{"instrument": "games"}, {"instrument": "canary", "skipped": "quick"}]
    audit.write_text(json.dumps({"schema": 1, "contract_sha256": CONTRACT, "clean": True, "instruments": instruments}))
    options = {"image": f"sha256:{seed:064x}", "audit": audit} if seed % 5 == 0 else {}
    made = world(tmp_path, names, homes, record=record, **options)
    verdict = check(json.dumps(made.envelope).encode(), pins(*names), made.folder)
    assert verdict.problems == []
    for name in names:
        (account,) = verdict.parts[name].accounts
        kind, times = homes[name]["kind"], 1 if homes[name]["kind"] == "non_private" else 1 + seed
        assert (account.committed, account.abandoned) == ({kind: times}, homes[name]["abandoned"])
        assert account.non_private == (kind == "non_private")


def test_nothing_private_is_in_a_passport(tmp_path: Path) -> None:
    """A simulation's record holds exact metrics, receipts and counts beside what was released; a ledger, other runs."""
    folder = write_run(tmp_path)
    write_result(folder, simulation=True)
    result = json.loads((folder / "result.json").read_text())
    result["participants"]["used-car"]["metrics"] |= {
        "accuracy": {"local": 0.81234, "federated": 0.82345, "released": False, "release": None},
        "auc": {**result["participants"]["used-car"]["metrics"]["auc"], "federated": 0.83456, "local": 0.84567},
    }
    (folder / "result.json").write_text(json.dumps(result))
    home = home_with_run(
        tmp_path / "homes", "used-car", run=result["run_id"], contract=result["contract_sha256"], before=2
    )
    with Ledger.open(home.ledger, home.participant) as ledger:
        envelope = make_part(home, ledger, result["run_id"])
        lifetime, salt = ledger.spent("heart", 1e-5), ledger.export()["salt"]
        entries = ledger.export()["entries"]
    (folder / "parts").mkdir()
    (folder / "parts" / "used-car.json").write_text(json.dumps(envelope))
    text = told(make_passport(folder, folder / "parts", key_of("coordinator")))
    assert "0.6543" in text  # what was released
    planted = ["0.81234", "0.82345", "0.83456", "0.84567", "0.6111", "0.6789", "3.1415", "Lovelace", "BAD_REPLY"]
    planted += [
        " 103",
        "other-0",
        "other-1",
        "d" * 64,
        salt,
        f"{lifetime:.6g}",
        private_pem("used-car").decode()[30:60],
    ]
    planted += [entry["reply_sha256"] for entry in entries if entry["reply_sha256"]]
    planted += [entry["created"] for entry in entries] + [str(tmp_path), "split"]
    assert [word for word in planted if word in text] == []


def test_a_part_is_noted_in_the_ledger_before_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = home_with_run(tmp_path, "clinic-a", before=1)
    with Ledger.open(home.ledger, "clinic-a") as ledger:
        part = make_part(home, ledger, RUN)
        digest = hashlib.sha256(base64.b64decode(part["payload"])).hexdigest()
        (_, note) = ledger.notes()[-1]
        assert note == {"what": "passport", "run": RUN, "sha256": digest}
        assert history(ledger)[-1]["detail"] == f"run {RUN}, SHA-256 {digest[:12]}"
        # It speaks of this run's links alone, so it says the same again, and the heads are the ledger's own.
        assert payload(make_part(home, ledger, RUN)) == payload(part)
        chain = {link["seq"]: link["head"] for link in ledger.export()["chain"]}
        heads = payload(part)["predicate"]["ledger"].values()
        assert all(chain[place["counter"]] == place["head"] for place in heads)

        def fails(self: Ledger, note: dict[str, Any]) -> None:
            raise OSError("no room")

        monkeypatch.setattr(Ledger, "note", fails)
        with pytest.raises(OSError, match="no room"):
            make_part(home, ledger, RUN)


def test_a_restored_ledger_has_a_history(tmp_path: Path) -> None:
    home = home_with_run(tmp_path, "clinic-a")
    with Ledger.open(home.ledger, "clinic-a") as ledger:
        ledger.note({"what": "restored", "backup": "2026-01-01", "entries": 1, "witnessed": True})
        assert history(ledger)[-1]["detail"] == "a backup of 2026-01-01"


def test_relations_are_those_of_the_events() -> None:
    relation = Account.model_fields["relation"].annotation
    assert getattr(relation, "__args__", ()) == RELATIONS


def test_a_run_that_the_ledger_does_not_know_is_refused(tmp_path: Path) -> None:
    home = home_with_run(tmp_path, "clinic-a")
    with Ledger.open(home.ledger, "clinic-a") as ledger, pytest.raises(InputError, match="got no such run"):
        make_part(home, ledger, "hospitals")


@pytest.mark.parametrize("wrong", ["run", "contract", "participant", "stranger", "text", "files", "audit"])
def test_parts_and_records_that_do_not_fit_are_refused(tmp_path: Path, wrong: str) -> None:
    names = ["clinic-a"]
    made = world(tmp_path, names, {})
    file = made.folder / "parts" / "clinic-a.json"
    audit = None
    if wrong == "files":
        (made.folder / "model" / "hospital.safetensors").write_bytes(b"another model")
    elif wrong == "audit":
        audit = tmp_path / "audit.json"
        audit.write_text(json.dumps({"schema": 1, "contract_sha256": "e" * 64, "clean": True, "instruments": []}))
    elif wrong == "stranger":
        file.with_name("nobody.json").write_text(file.read_text())
    elif wrong == "text":
        file.write_text("no part")
    else:
        options = {"run": {"run": "hospitals-2"}, "contract": {"contract": "e" * 64}}.get(wrong, {})
        home = home_with_run(tmp_path / "else", "clinic-b" if wrong == "participant" else "clinic-a", **options)
        with Ledger.open(home.ledger, home.participant) as ledger:
            file.write_text(json.dumps(make_part(home, ledger, options.get("run", RUN))))
    with pytest.raises(InputError, match="wanted"):
        make_passport(made.folder, made.folder / "parts", None, audit=audit)


def test_keys_are_read_from_a_folder_or_a_toml_file(tmp_path: Path) -> None:
    names = ("coordinator", "clinic-a")
    (tmp_path / "pins.toml").write_text("".join(f'{name} = "{public_hex(name)}"\n' for name in names))
    (tmp_path / "keys").mkdir()
    for name in names:
        pem = next(iter(pins(name).values())).keyval["public"] if name == "coordinator" else _pem(name)
        (tmp_path / "keys" / f"{name}.pem").write_text(pem)
    assert public_keys(tmp_path / "pins.toml") == public_keys(tmp_path / "keys") == pins("clinic-a")


def _pem(name: str) -> str:
    return str(pins(name)[name].keyval["public"])


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "coordinator"),
        ({"clinic-a": "x"}, "got something else"),
        ({"coordinator": private_pem("coordinator").decode()}, "got a private key"),
        ({"coordinator": _pem("clinic-a"), "clinic-a": _pem("clinic-a")}, "one key for clinic-a and coordinator"),
    ],
)
def test_bad_keys_are_refused(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name, text in files.items():
        (tmp_path / f"{name}.pem").write_text(text)
    with pytest.raises(InputError, match=says):
        public_keys(tmp_path)


@pytest.mark.parametrize("text", ['coordinator = "00"', "coordinator = 1", "coordinator = [", 'coordinator = "zz"'])
def test_bad_lines_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "pins.toml").write_text(text)
    with pytest.raises(InputError, match="wanted"):
        public_keys(tmp_path / "pins.toml")


def _invoke(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(APP, [str(each) for each in arguments])
    return done.exit_code, done.output


def test_the_commands_sign_and_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_record(tmp_path / "runs" / RUN, ["clinic-a", "clinic-b"])
    (folder / "parts").mkdir()
    for name in ("clinic-a", "clinic-b"):
        home_with_run(tmp_path / "homes", name, identity=name == "clinic-a")
        options = ("--home", tmp_path / "homes", "--out", folder / "parts" / f"{name}.json")
        status, output = _invoke("passport", RUN, "--participant", name, *options)
        assert status == 0
        assert ("no identity.pem" in output) == (name == "clinic-b")
    (tmp_path / "coordinator.key").write_bytes(private_pem("coordinator"))
    lines = "".join(f'{name} = "{public_hex(name)}"\n' for name in ("coordinator", "clinic-a", "clinic-b"))
    (tmp_path / "pins.toml").write_text(lines)
    assert _invoke("passport", folder, "--key", "coordinator.key")[0] == 0
    status, output = _invoke("verify", folder / "passport.json", "--keys", "pins.toml", "--files", folder)
    assert status == 1
    assert "missing or forged: clinic-b: its part is not signed" in output
    (tmp_path / "homes" / "clinic-b" / "identity.pem").write_bytes(private_pem("clinic-b"))
    _invoke("passport", RUN, "--participant", "clinic-b", *options)
    assert _invoke("passport", folder, "--key", "coordinator.key")[0] == 0
    status, output = _invoke("verify", folder / "passport.json", "--keys", "pins.toml", "--json")
    data = json.loads(output)
    assert (status, data["problems"], list(data["parts"])) == (0, [], ["clinic-a", "clinic-b"])
    assert data["sha256"] == hashlib.sha256((folder / "passport.json").read_bytes()).hexdigest()
    status, output = _invoke("passport", folder)
    assert (status, "not signed: no --key" in output) == (0, True)
    assert _invoke("verify", folder / "passport.json", "--keys", "pins.toml")[0] == 1
    for wrong in (
        ("verify", "nothing.json", "--keys", "pins.toml"),
        ("verify", folder / "passport.json", "--keys", "nothing.toml"),
        ("passport", tmp_path / "nothing"),
        ("passport", folder, "--key", "nothing.key"),
        ("passport", folder, "--key", "pins.toml"),
        ("passport", RUN, "--participant", "nobody", "--home", tmp_path / "homes"),
        ("passport", RUN, "--participant", "clinic-a", "--key", "coordinator.key"),
    ):
        status, output = _invoke(*wrong)
        assert (status, output.startswith("error: ")) == (2, True), wrong


def test_verify_loads_no_library_that_trains_or_talks(tmp_path: Path) -> None:
    made = world(tmp_path, ["clinic-a"], {})
    (tmp_path / "passport.json").write_text(json.dumps(made.envelope))
    (tmp_path / "pins.toml").write_text("".join(f'{n} = "{public_hex(n)}"\n' for n in ("coordinator", "clinic-a")))
    code = (
        "import sys\nfrom consortia.cli import build_app\ntry: build_app(sys.argv[1:])()\nexcept SystemExit as end:\n"
        "    print('ended', end.code, *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "verify", tmp_path / "passport.json", "--keys", tmp_path / "pins.toml"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path)},
    )
    _, status, *loaded = done.stdout.splitlines()[-1].split()
    assert status == "0"
    assert not {"torch", "flwr", "numpy", "pandas", "scipy", "requests", "httpx", "grpc"} & set(loaded)


def test_report_and_manifest_name_the_passport(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    write_result(folder)
    facts = dict(origin_section(gather(folder)).facts)
    assert "passport" not in facts
    (folder / "passport.json").write_text("a passport")
    digest = hashlib.sha256(b"a passport").hexdigest()
    assert dict(origin_section(gather(folder)).facts)["passport"] == f"sha256:{digest}"


@pytest.mark.end_to_end
def test_a_real_run_has_a_passport(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _invoke("run", "hospitals", "--out", tmp_path / "runs")[0] == 0
    (folder,) = (tmp_path / "runs").iterdir()
    homes = folder / "participants"
    names = sorted(home.name for home in homes.iterdir())
    (folder / "parts").mkdir()
    for name in names:
        (homes / name / "identity.pem").write_bytes(private_pem(name))
        target = folder / "parts" / f"{name}.json"
        assert _invoke("passport", folder, "--participant", name, "--home", homes, "--out", target)[0] == 0
    envelope = make_passport(folder, folder / "parts", key_of("coordinator"))
    verdict = check(json.dumps(envelope).encode(), pins(*names), folder)
    assert verdict.problems == []
    for name in names:
        receipt = json.loads((homes / name / "runs" / folder.name / "receipt.json").read_text())
        (account,) = verdict.parts[name].accounts
        assert account.epsilon == pytest.approx(receipt["epsilon"]["run"])
        assert verdict.parts[name].contract_sha256 == receipt["contract_sha256"]
