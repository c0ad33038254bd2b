"""Joining and leaving on the coordinator's side: roster, keys, kits, certificates. The rest is in test_compose.py."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

import pytest
import yaml
from command_line import APP
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from typer.testing import CliRunner

from consortia.common import pki
from consortia.common.errors import InputError
from consortia.common.strict import parse, read_toml
from consortia.deploy import pki_folder
from consortia.deploy.compose import compose_text
from consortia.deploy.kit import FILES, check_image, write_kit
from consortia.deploy.members import MemberFolder, apply
from consortia.deploy.pki_folder import check, ensure, pairs
from consortia.deploy.prepare import make_keys, make_kit
from consortia.terms.policy import Policy
from consortia.terms.scenario import load_scenario

ADDRESS = "fed.example.org:8443"
ADD = ("--industry", "hospital", "--dataset", "heart", "--site", "va", "--units", "200", "--epsilon", "1")


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A coordinator's folder whose keys and certificates are made."""
    monkeypatch.chdir(tmp_path)
    make_keys(load_scenario("cross-industry-network"), tmp_path / "volumes", tmp_path / "pki", address=ADDRESS)
    return tmp_path


def _call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(APP, ["participant", *arguments, "--scenario", "cross-industry-network"])
    return done.exit_code, done.output


def _own_key(folder: Path) -> Path:
    return pki.write_node_key(folder, "own.key")[1]


def test_adding_creates_only_what_is_new(coordinator: Path) -> None:
    before = _snapshot(coordinator)
    public = _own_key(coordinator / "elsewhere")
    code, said = _call("add", "hospital-c", *ADD, "--address", ADDRESS, "--public-key", str(public))
    assert code == 0, said
    after = _snapshot(coordinator)
    assert {name: after.get(name) for name in before} == before
    new = {name for name in set(after) - set(before) if not name.startswith("elsewhere")}
    assert new == {
        "members/acts.jsonl",
        "members/cross-industry-network/members.toml",
        "members/cross-industry-network/keys/hospital-c.pub",
        *(f"kits/hospital-c/{name}" for name in FILES),
    }
    # Another `up` makes nothing, and gives nobody else anything.
    assert (
        make_keys(
            load_scenario("cross-industry-network"), coordinator / "volumes", coordinator / "pki", address=ADDRESS
        )
        == []
    )
    assert _snapshot(coordinator / "volumes") == {
        name.removeprefix("volumes/"): data for name, data in before.items() if name.startswith("volumes/")
    }


def test_the_next_run_has_seven_under_the_same_contract(coordinator: Path) -> None:
    scenario = load_scenario("cross-industry-network")
    assert _call("add", "hospital-c", *ADD, "--address", ADDRESS)[0] == 0
    whole = apply(scenario, MemberFolder(coordinator / "members", scenario.name).load())
    assert [participant.name for participant in whole.roster] == [
        *(participant.name for participant in scenario.roster),
        "hospital-c",
    ]
    assert whole.contract.sha256() == scenario.contract.sha256()


def test_a_kit_holds_nothing_of_anybody_else_and_refuses_until_it_is_filled_in(coordinator: Path) -> None:
    assert _call("add", "hospital-c", *ADD, "--address", ADDRESS)[0] == 0
    kit = coordinator / "kits" / "hospital-c"
    text = "".join(data.decode() for data in _snapshot(kit).values())
    assert not [
        participant.name for participant in load_scenario("cross-industry-network").roster if participant.name in text
    ]
    assert "PRIVATE KEY" not in text
    assert (kit / "ca.crt").read_bytes() == (coordinator / "pki" / "ca.crt").read_bytes()
    assert len((kit / "README.txt").read_text().splitlines()) == 4
    with pytest.raises(InputError) as caught:
        parse(Policy, read_toml(kit / "policy.toml"), "policy.toml")
    assert {problem.split(": ")[1] for problem in caught.value.problems} == {
        "budget.run.epsilon", "budget.lifetime.epsilon", "budget.lifetime.delta",
    }  # fmt: skip
    assert load_scenario(str(kit / "scenario.toml")).contract == load_scenario("cross-industry-network").contract
    assert load_scenario("cross-industry-network").contract.sha256() in (kit / "policy.toml").read_text()

    plan = yaml.safe_load((kit / "compose.yml").read_text())
    for service, terms in plan["services"].items():
        assert terms["read_only"] is True, service
        assert terms["cap_drop"] == ["ALL"], service
        assert terms["mem_limit"], service
        assert terms["cpus"], service
        assert ("ports" in terms) == ("watch" in terms.get("networks", [])) == (service == "dashboard"), service
        # Who reaches the outside sees no rows, and the other way round.
        sees_rows = any(":/data" in mount for mount in terms["volumes"])
        assert not (sees_rows and "outside" in terms.get("networks", [])), service
    isolated = {"com.docker.network.bridge.gateway_mode_ipv4": "${CONSORTIA_GATEWAY:-isolated}"}
    assert plan["networks"]["private"] == {"internal": True, "driver_opts": isolated}
    # The owner's own view, if it asks for one: on this host alone, with neither rows nor keys, and with no way out.
    watcher = plan["services"]["dashboard"]
    assert (watcher["profiles"], watcher["networks"]) == (["dashboard"], ["watch"])
    assert all(port.startswith("127.0.0.1:") for port in watcher["ports"])
    assert [mount.split(":")[0] for mount in watcher["volumes"]] == ["./home", "./policy.toml"]
    assert plan["networks"]["watch"]["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    # The two services are those of a participant in the coordinator's own file.
    own = yaml.safe_load(compose_text(load_scenario("cross-industry-network")))["services"]
    for service in ("", "-app"):
        here = [part.replace(ADDRESS, "proxy:8000") for part in plan["services"][f"hospital-c{service}"]["command"]]
        assert here == [part.replace("hospital-a", "hospital-c") for part in own[f"hospital-a{service}"]["command"]]
    assert f"--superlink={ADDRESS}" in plan["services"]["hospital-c"]["command"]


def test_a_kit_carries_its_industrys_file_and_refuses_an_image_without_the_client(
    coordinator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = load_scenario("cross-industry")
    (coordinator / "wards.toml").write_text("what the industry is")
    monkeypatch.setattr("clients.registry.file_of", lambda name: coordinator / "wards.toml")
    kit = coordinator / "kits" / "hospital-a"
    image = "registry.example.org/consortia@sha256:" + "a" * 64
    authority = (coordinator / "pki" / "ca.crt").read_bytes()
    write_kit(kit, scenario, "hospital-a", ADDRESS, authority, has_key=False, image=image, pki=coordinator / "pki")
    assert (kit / "clients" / "wards.toml").read_text() == "what the industry is"
    plan = yaml.safe_load((kit / "compose.yml").read_text())["services"]
    assert {terms["image"] for terms in plan.values()} == {image}
    assert image in (kit / "README.txt").read_text()
    for service in ("preflight-home", "hospital-a-app"):
        assert "./clients:/clients:ro" in plan[service]["volumes"]
        assert plan[service]["environment"]["CONSORTIA_CLIENTS"] == "/clients"
    monkeypatch.setattr("clients.registry.names", lambda: ("bank",))
    with pytest.raises(InputError, match="wanted the client 'hospital', which hospital-a needs"):
        make_kit("hospital-a", kit)
    assert not (kit / "keys").exists()


@pytest.mark.parametrize("image", ["consortia:0.1.0", "consortia@sha256:abc", "sha256:" + "g" * 64])
def test_a_kits_image_is_named_by_its_content(image: str) -> None:
    with pytest.raises(InputError, match="wanted NAME@sha256:DIGEST"):
        check_image(image)


def test_a_kits_own_step_makes_a_key_or_keeps_the_one_that_is_there(coordinator: Path) -> None:
    assert _call("add", "hospital-c", *ADD, "--address", ADDRESS)[0] == 0
    kit = coordinator / "kits" / "hospital-c"
    made = make_kit("hospital-c", kit)
    assert made == ["node key of hospital-c", "certificate of hospital-c", "ledger"]
    assert (kit / "home" / "ledger.db").is_file()
    first = _snapshot(kit)
    assert make_kit("hospital-c", kit) == []
    assert _snapshot(kit) == first
    # The public half is what the coordinator takes; the private one is not taken by mistake.
    assert _call("key", "hospital-c", "--public-key", str(kit / "hospital-c.pub"))[0] == 0
    assert MemberFolder(coordinator / "members", "cross-industry-network").public_key("hospital-c").is_file()
    code, said = _call("key", "hospital-c", "--public-key", str(kit / "keys" / "node.key"))
    assert code == 2
    assert "never send the private half" in said.replace("\n", " ")


def test_leaving_keeps_the_ledger(coordinator: Path) -> None:
    folder = MemberFolder(coordinator / "members", "cross-industry-network")
    public = _own_key(coordinator / "elsewhere")
    assert _call("add", "hospital-c", *ADD, "--address", ADDRESS, "--public-key", str(public))[0] == 0
    make_kit("hospital-c", coordinator / "kits" / "hospital-c")
    kept = _snapshot(coordinator / "kits")
    for name in ("hospital-c", "bank-b"):
        assert _call("remove", name)[0] == 0
    left = apply(load_scenario("cross-industry-network"), folder.load())
    assert [participant.name for participant in left.roster] == [
        "hospital-a",
        "hospital-b",
        "bank-a",
        "factory-a",
        "factory-b",
    ]
    assert not folder.public_key("hospital-c").exists()
    assert _snapshot(coordinator / "kits") == kept
    listed = json.loads(_call("list", "--json")[1])
    assert listed["removed"] == ["bank-b"]
    assert _call("remove", "bank-b")[0] == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["hospital-a", *ADD, "--address", ADDRESS], "a name that is not on the roster"),
        (["hospital-c", *ADD, "--address", "fed.example.org"], "HOST:PORT"),
        (
            ["hospital-c", *ADD, "--address", "other.example.org:8443"],
            "make renew CONSORTIA_ADDRESS=other.example.org:8443",
        ),
        (["hospital-c", *ADD, "--address", ADDRESS, "--public-key", "nowhere.pub"], "wanted the public half"),
        (["insurer-a", *ADD, "--industry", "insurer", "--address", ADDRESS], "an installed industry"),
        (["hospital-c", *ADD, "--site", "nowhere", "--address", ADDRESS], "site: wanted one of"),
        (["hospital-c", *ADD, "--epsilon", "low", "--address", ADDRESS], "--epsilon: wanted a number"),
        (["Hospital C", *ADD, "--address", ADDRESS], "name: wanted"),
    ],
)
def test_bad_input_is_named_and_writes_nothing(coordinator: Path, change: list[str], says: str) -> None:
    before = _snapshot(coordinator)
    code, said = _call("add", *change)
    assert code == 2
    assert says in said.replace("\n", " ")
    assert _snapshot(coordinator) == before


def test_a_key_that_flower_cannot_take(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    (tmp_path / "a.pub").write_bytes(
        key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    code, said = _call("key", "hospital-a", "--public-key", str(tmp_path / "a.pub"), "--members", str(tmp_path))
    assert code == 2
    assert "elliptic curve" in said


# Certificates.


def test_certificates_renew_and_nobody_elses_files_change(coordinator: Path) -> None:
    before = _snapshot(coordinator / "volumes")
    made = make_keys(
        load_scenario("cross-industry-network"),
        coordinator / "volumes",
        coordinator / "pki",
        address="new.example.org:1",
        renew=True,
    )
    assert made == ["certificate of superlink", "certificate of proxy"]
    after = _snapshot(coordinator / "volumes")
    changed = {name for name in before if before[name] != after[name]}
    shown = {"public/superlink.pem", "public/proxy.pem"}  # to the dashboard
    assert changed == {"superlink/server.pem", "superlink/server.key", "proxy/proxy.pem"} | shown
    certificate = x509.load_pem_x509_certificates((coordinator / "pki" / "proxy.pem").read_bytes())[0]
    assert pki_folder.covers(certificate, "new.example.org")


def test_a_certificate_that_ends_soon_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pki_folder, "SERVER_DAYS", 29)
    assert len(ensure(tmp_path, pairs(""))) == 3
    monkeypatch.setattr(pki_folder, "SERVER_DAYS", 365)
    assert ensure(tmp_path, pairs("")) == ["certificate of superlink", "certificate of proxy"]
    assert ensure(tmp_path, pairs("")) == []
    assert pki_folder.expiry(tmp_path / "proxy.pem") > datetime.datetime.now(datetime.UTC) + datetime.timedelta(
        days=360
    )


def _brought(folder: Path, hosts: tuple[str, ...] = ("superlink", "proxy", "localhost", "fed.example.org")) -> Path:
    """A user's own folder: one certificate for both servers, no authority's key."""
    pki.write_server(folder, pki.make_authority("corporate", 400), hosts, 300)
    for name in ("superlink", "proxy"):
        (folder / f"{name}.pem").write_bytes((folder / "server.pem").read_bytes())
        (folder / f"{name}.key").write_bytes((folder / "server.key").read_bytes())
    return folder


def test_a_brought_folder_is_used_as_it_is(tmp_path: Path) -> None:
    folder = _brought(tmp_path / "pki")
    before = _snapshot(folder)
    made = make_keys(load_scenario("linear"), tmp_path / "volumes", folder, address=ADDRESS, renew=True)
    assert not [item for item in made if "line-" not in item and "secret" not in item]
    assert _snapshot(folder) == before
    assert (tmp_path / "volumes" / "line-a" / "ca.crt").read_bytes() == before["ca.crt"]


def _other(folder: Path) -> Path:
    return _brought(folder / "other")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "proxy.key").unlink(), ["proxy.key: wanted a PEM file, got nothing there"]),
        (lambda f: (f / "proxy.pem").write_text("no"), ["proxy.pem: wanted a certificate in PEM"]),
        (lambda f: (f / "ca.crt").write_text("no"), ["ca.crt: wanted certificates in PEM"]),
        (lambda f: os.replace(_other(f) / "proxy.key", f / "proxy.key"), ["proxy.key: wanted the key of proxy.pem"]),
        (
            lambda f: os.replace(_other(f) / "ca.crt", f / "ca.crt"),
            ["superlink.pem: wanted a certificate that ca.crt", "proxy.pem: wanted a certificate that ca.crt"],
        ),
        (
            lambda f: _brought(f, ("superlink", "proxy", "localhost")),
            ["proxy.pem: subject alternative names: wanted fed.example.org, got superlink, proxy"],
        ),
    ],
)
def test_what_is_wrong_with_a_brought_folder_is_named(tmp_path: Path, spoil, says: list[str]) -> None:  # type: ignore[no-untyped-def]
    folder = _brought(tmp_path)
    spoil(folder)
    with pytest.raises(InputError) as caught:
        ensure(folder, pairs(ADDRESS))
    assert len(caught.value.problems) == len(says)
    assert all(wanted in problem for wanted, problem in zip(says, caught.value.problems, strict=True))


def test_certificates_out_of_their_time_and_locked_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _brought(tmp_path)
    certificate, key = pki.make_server(pki.make_authority("x", 9), ["proxy", "localhost"], 9)
    locked = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    )
    (folder / "proxy.key").write_bytes(locked)
    assert any("without a passphrase" in problem for problem in check(folder, pairs("")))
    monkeypatch.setattr(pki, "_CLOCK_SKEW", datetime.timedelta(days=9))
    certificate, _ = pki.make_server(pki.make_authority("x", 9), ["proxy", "localhost"], -1)
    (folder / "proxy.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    assert any("proxy.pem: wanted a valid certificate, got one that ended on" in p for p in check(folder, pairs("")))


def test_an_authority_in_between_may_lie_in_the_servers_file(tmp_path: Path) -> None:
    root = pki.make_authority("root", 400)
    # path_length 0 of our own authorities allows none below; a corporate one is built here by hand.
    middle = pki.make_authority("middle", 400)
    between = (
        x509.CertificateBuilder()
        .subject_name(middle.certificate.subject)
        .issuer_name(root.certificate.subject)
        .public_key(middle.key.public_key())
        .serial_number(1)
        .not_valid_before(middle.certificate.not_valid_before_utc)
        .not_valid_after(middle.certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root.key, root.certificate.signature_hash_algorithm)  # type: ignore[arg-type]
    )
    folder = _brought(tmp_path)
    pki.write_server(folder, middle, ["superlink", "proxy", "localhost"], 30)
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(root.certificate.public_bytes(pem))
    for name in ("superlink", "proxy"):
        (folder / f"{name}.key").write_bytes((folder / "server.key").read_bytes())
        (folder / f"{name}.pem").write_bytes((folder / "server.pem").read_bytes())
    assert len(check(folder, pairs(""))) == 2
    for name in ("superlink", "proxy"):
        (folder / f"{name}.pem").write_bytes((folder / "server.pem").read_bytes() + between.public_bytes(pem))
    assert check(folder, pairs("")) == []
