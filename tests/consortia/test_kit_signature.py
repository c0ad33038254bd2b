"""A join kit is signed, and every forgery of it is refused before anything in it runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import APP
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from typer.testing import CliRunner

from consortia.common import pki
from consortia.common.console import tell
from consortia.common.errors import InputError
from consortia.deploy.kit import write_kit
from consortia.deploy.kit_signature import check_kit, fingerprint
from consortia.deploy.pki_folder import ensure, pairs
from consortia.deploy.prepare import make_kit
from consortia.terms.scenario import load_scenario

ADDRESS = "fed.example.org:8443"
SCENARIO = load_scenario("hospitals", settle=False)


def _written(root: Path, address: str = ADDRESS) -> Path:
    """Write a kit of `va` under an authority of its own; return it."""
    ensure(root / "pki", pairs(address))
    authority = (root / "pki" / "ca.crt").read_bytes()
    write_kit(root / "va", SCENARIO, "va", address, authority, has_key=False, pki=root / "pki")
    return root / "va"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The coordinator's kit, and one that somebody else made in the same words."""
    root = tmp_path_factory.mktemp("kits")
    return _written(root / "own"), _written(root / "foreign")


@pytest.fixture
def kit(worlds: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(worlds[0], tmp_path / "va"))


def _told(kit: Path) -> str:
    return fingerprint((kit / "ca.crt").read_bytes())


def test_a_kit_is_whole_and_of_the_authority_that_openssl_shows(kit: Path) -> None:
    told = _told(kit)
    if openssl := shutil.which("openssl"):
        command = [openssl, "x509", "-noout", "-fingerprint", "-sha256", "-in", str(kit / "ca.crt")]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert shown.strip().endswith(f"={told}")
    for form in ("", told, told.lower().replace(":", ""), f"sha256:{told}"):
        assert check_kit(kit, "va", form) == told


def test_a_kit_made_by_somebody_else_has_another_fingerprint(worlds: tuple[Path, Path]) -> None:
    own, foreign = worlds
    assert check_kit(foreign, "va") != _told(own)  # by itself it looks like any
    with pytest.raises(InputError, match=r"wanted a kit of the authority .*, got one of .*by another way"):
        check_kit(foreign, "va", _told(own))


def _put(file: str, text: str) -> Callable[[Path, Path], None]:
    def spoil(kit: Path, _: Path) -> None:
        (kit / file).parent.mkdir(exist_ok=True)
        (kit / file).write_text(text, encoding="utf-8")

    return spoil


def _edit(file: str, old: str, new: str) -> Callable[[Path, Path], None]:
    def spoil(kit: Path, _: Path) -> None:
        text = (kit / file).read_text(encoding="utf-8")
        assert old in text
        (kit / file).write_text(text.replace(old, new), encoding="utf-8")

    return spoil


def _take(*files: str) -> Callable[[Path, Path], None]:
    def spoil(kit: Path, foreign: Path) -> None:
        for file in files:
            (kit / file).write_bytes((foreign / file).read_bytes())

    return spoil


def _second_authority(kit: Path, foreign: Path) -> None:
    """Keep the coordinator's authority first, put one's own behind it, and sign under that."""
    both = (kit / "ca.crt").read_bytes() + (foreign / "ca.crt").read_bytes()
    shutil.rmtree(kit)
    write_kit(kit, SCENARIO, "va", ADDRESS, both, has_key=False, pki=foreign.parent / "pki")


def _other_host(kit: Path, foreign: Path) -> None:
    """Sign with a certificate of the coordinator's authority that is for another host."""
    folder = kit.parent / "stolen"
    shutil.copytree(foreign.parent.parent / "own" / "pki", folder)
    for name in ("pem", "key"):
        (folder / f"proxy.{name}").write_bytes((folder / f"superlink.{name}").read_bytes())
    authority = (kit / "ca.crt").read_bytes()
    shutil.rmtree(kit)
    write_kit(kit, SCENARIO, "va", ADDRESS, authority, has_key=False, pki=folder)


def _swapped_certificate(kit: Path, foreign: Path) -> None:
    mine, theirs = (json.loads((folder / "kit.json").read_text()) for folder in (kit, foreign))
    (kit / "kit.json").write_text(json.dumps(theirs | {"certificate": mine["certificate"]}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda kit, _: (kit / "kit.json").unlink(), "a join kit with kit.json, got none"),
        (lambda kit, _: (kit / "ca.crt").unlink(), "a join kit with ca.crt, got none"),
        (_put("kit.json", "{}"), "the coordinator's signature, got something else"),
        (_put("kit.json", "\x00"), "the coordinator's signature, got something else"),
        (_put("ca.crt", "no"), "the coordinator's signature, got something else"),
        (_edit("compose.yml", "cap_drop: [ALL]", "cap_drop: []"), "compose.yml changed or gone"),
        (_edit("policy.toml", "exact_metrics = false", "exact_metrics = true"), "policy.toml changed or gone"),
        (_edit("scenario.toml", "rounds", "round"), "scenario.toml changed or gone"),
        (_put("compose.override.yml", "services: {}"), "compose.override.yml added"),
        (_put(".env", "CONSORTIA_UID=0"), ".env added"),
        (_put("clients/hospital.toml", ""), "clients/hospital.toml added"),
        (_put("keys/node.key", "known to others"), "keys added"),
        (_put("data/rows.csv", ""), "data/rows.csv added"),
        (_take("ca.crt"), "wanted a kit of the authority"),
        (_take("ca.crt", "kit.json"), "wanted a kit of the authority"),
        (_take("kit.json"), "a key that ca.crt has signed for fed.example.org, got another"),
        (_swapped_certificate, "signed with another key"),
        (_second_authority, "wanted a kit of the authority"),
        (_other_host, "a key that ca.crt has signed for fed.example.org, got another"),
    ],
)
def test_a_forged_kit_is_refused(
    spoil: Callable[[Path, Path], None], says: str, kit: Path, worlds: tuple[Path, Path]
) -> None:
    wanted = _told(kit)
    spoil(kit, worlds[1])
    with pytest.raises(InputError) as caught:
        check_kit(kit, "va", wanted)
    assert says in str(caught.value)
    assert "ask the coordinator" in str(caught.value)


def test_another_participants_kit_is_refused(kit: Path) -> None:
    with pytest.raises(InputError, match="wanted a join kit of cleveland"):
        check_kit(kit, "cleveland")


def test_an_accepted_kit_is_its_participants_but_whom_it_trusts_stays(
    kit: Path, worlds: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _edit("policy.toml", "FILL IN", "1")(kit, kit)
    _edit("compose.yml", "mem_limit: 2g", "mem_limit: 4g")(kit, kit)
    _put("compose.override.yml", "services: {}")(kit, kit)
    monkeypatch.setenv("CONSORTIA_AUTHORITY", _told(worlds[1]))
    with pytest.raises(InputError, match="wanted a kit of the authority"):
        make_kit("va", kit)
    monkeypatch.setenv("CONSORTIA_AUTHORITY", _told(kit))
    assert "ledger" in make_kit("va", kit)
    assert make_kit("va", kit) == []
    _take("ca.crt")(kit, worlds[1])
    monkeypatch.delenv("CONSORTIA_AUTHORITY")
    with pytest.raises(InputError, match=r"a key that ca\.crt has signed"):
        make_kit("va", kit)


def test_the_command_says_what_to_compare(kit: Path) -> None:
    def call(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(APP, ["participant", "check-kit", "va", "--kit", str(kit), *more])
        return done.exit_code, " ".join(done.output.split())

    code, said = call()
    assert code == 0
    assert _told(kit) in said.replace(" ", "")
    assert "anybody can sign a kit" in said
    assert call("--authority", _told(kit))[0] == 0
    assert call("--authority", "A1:B2")[0] == 2


def test_a_coordinator_without_its_proxys_key_cannot_make_a_kit(tmp_path: Path) -> None:
    ensure(tmp_path / "pki", pairs(ADDRESS))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(*form)
    for number, (key, says) in enumerate([(b"no", "the proxy's key"), (other, "an elliptic curve or RSA key")]):
        (tmp_path / "pki" / "proxy.key").write_bytes(key)
        with pytest.raises(InputError, match=f"wanted {says}, to sign the kit"):
            write_kit(tmp_path / str(number), SCENARIO, "va", ADDRESS, b"", has_key=False, pki=tmp_path / "pki")


@pytest.mark.parametrize("bits", [0, pytest.param(4096, marks=pytest.mark.end_to_end)])  # a large key takes seconds
def test_certificates_of_ones_own_sign_kits(bits: int, tmp_path: Path) -> None:
    """A folder that the user brought, with no authority's key in it, and with keys of either kind."""
    authority, folder = pki.make_authority("corporate", 400), tmp_path / "pki"
    pki.write_server(folder, authority, ("proxy", "localhost", "fed.example.org"), 300)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    certificate = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    key = serialization.load_pem_private_key((folder / "server.key").read_bytes(), None)
    if bits:
        own = rsa.generate_private_key(65537, bits)
        builder = x509.CertificateBuilder(certificate.issuer, certificate.subject, own.public_key(), 7)
        builder = builder.not_valid_before(certificate.not_valid_before_utc)
        builder = builder.not_valid_after(certificate.not_valid_after_utc)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate = builder.add_extension(names, critical=False).sign(authority.key, hashes.SHA384())
        key = own
    (folder / "proxy.pem").write_bytes(certificate.public_bytes(encoding))
    (folder / "proxy.key").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    trusted = (folder / "ca.crt").read_bytes()
    write_kit(tmp_path / "va", SCENARIO, "va", ADDRESS, trusted, has_key=False, pki=folder)
    assert check_kit(tmp_path / "va", "va", fingerprint(trusted))


def test_a_fingerprint_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Between two colons AB is a picture to the library that prints."""
    tell("the authority 4D:AB:0F:CL:A:B:VS:ID")
    assert "4D:AB:0F:CL:A:B:VS:ID" in capsys.readouterr().out
