"""Signs a join kit with the coordinator's key, and checks it against a fingerprint that came by another way.

*Guarantee*: `check_kit` with a fingerprint passes only where the kit has each file that the coordinator wrote, as it
was signed, and no other; where the signing key's certificate is for the address that the kit calls; and where an
authority of `ca.crt` has signed it, whose fingerprint is the one given.

Once a kit is accepted, what the participant changes and adds is its own; `ca.crt`, `scenario.toml` and `clients/` stay
as they were signed. Without a fingerprint the check says no more than that the kit is whole: whoever forges one signs
it under an authority of their own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import ValidationError
from securesystemslib.signer import SSlibKey

from consortia.common.errors import InputError
from consortia.deploy.pki_folder import covers, is_signed, validity
from consortia.trust.passport.envelope import ForgedError, opened, signed
from consortia.trust.passport.statement import STATEMENT_TYPE, SignedStatement

SIGNATURE: Final = "kit.json"
_KIND: Final = "urn:consortia:join-kit:v1"
#: What a participant fills in or adapts once it has accepted the kit.
_LATER: Final = {"README.txt", "compose.yml", "policy.toml"}
_AGAIN: Final = "do not use this kit; ask the coordinator for another, and for its fingerprint by another way"


def fingerprint(authorities: bytes) -> str:
    """Return SHA-256 over all of a `ca.crt`; of one it is that of `openssl x509 -fingerprint -sha256`."""
    found = x509.load_pem_x509_certificates(authorities)
    data = b"".join(each.public_bytes(serialization.Encoding.DER) for each in found)
    return hashlib.sha256(data).digest().hex(":").upper()


def sign_kit(kit: Path, name: str, address: str, pki: Path) -> None:
    """Write the signature of a new kit.

    Parameters
    ----------
    address : str
        host:port that the kit calls; the proxy's certificate is for this host.
    pki : Path
        Folder of certificates; the proxy's key signs.

    Raises
    ------
    InputError
        When the proxy's key cannot be used.
    """
    file = pki / "proxy.key"
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{file}: wanted the proxy's key, to sign the kit, got {type(error).__name__}") from None
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise InputError(f"{file}: wanted an elliptic curve or RSA key, to sign the kit, got {type(key).__name__}")
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": file, "digest": {"sha256": digest}} for file, digest in _hashes(kit).items()],
        "predicateType": _KIND,
        "predicate": {"participant": name, "address": address},
    }
    whole = {"certificate": (pki / "proxy.pem").read_text(encoding="ascii"), "envelope": signed(statement, key)}
    (kit / SIGNATURE).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def check_kit(kit: Path, name: str, wanted: str = "", *, accepted: bool = False) -> str:
    """Return the fingerprint of the authority under which a kit is signed.

    Parameters
    ----------
    wanted : str
        The fingerprint as the coordinator told it, with or without colons; empty compares nothing.
    accepted : bool
        The participant works with the kit, and has filled in `policy.toml`.

    Raises
    ------
    InputError
        When the kit is not whole, not signed, or not signed under that authority.
    """
    try:
        whole = json.loads((kit / SIGNATURE).read_text(encoding="utf-8"))
        authorities = (kit / "ca.crt").read_bytes()
        chain = x509.load_pem_x509_certificates(whole["certificate"].encode())
        trusted = x509.load_pem_x509_certificates(authorities)
        envelope = SignedStatement.model_validate_json(json.dumps(whole["envelope"]))
        public = chain[0].public_key()
        statement = opened(envelope, SSlibKey.from_crypto(public))
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise InputError(f"{kit}: wanted a join kit with {missing}, got none; {_AGAIN}") from None
    except ForgedError as error:
        raise InputError(
            f"{kit / SIGNATURE}: wanted the coordinator's signature, got one that {error}; {_AGAIN}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UnsupportedAlgorithm, ValidationError):
        raise InputError(
            f"{kit / SIGNATURE}: wanted the coordinator's signature, got something else; {_AGAIN}"
        ) from None
    found = fingerprint(authorities)
    if wanted and _digits(wanted) != _digits(found):
        raise InputError(f"{kit}: wanted a kit of the authority {wanted}, got one of {found}; {_AGAIN}")
    try:
        about, kind = statement["predicate"], statement["predicateType"]
        files = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
        address, whose = str(about["address"]), about["participant"]
    except (KeyError, TypeError):
        kind = address = whose = ""
    if (kind, whose) != (_KIND, name):
        raise InputError(f"{kit}: wanted a join kit of {name}, got another signed thing; {_AGAIN}")
    host = address.rpartition(":")[0].strip("[]")
    if problems := validity(kit / SIGNATURE, chain[0]):
        raise InputError(*(f"{problem}; ask the coordinator for a new kit" for problem in problems))
    if not covers(chain[0], host) or not is_signed(chain, trusted):
        raise InputError(f"{kit}: wanted a key that ca.crt has signed for {host}, got another; {_AGAIN}")
    here = _hashes(kit)
    left_out = _LATER if accepted else set()
    words = [
        f"{file} changed or gone" for file, digest in files.items() if file not in left_out and here.get(file) != digest
    ]
    words += [f"{file} added" for file in _added(kit, here, accepted=accepted) if file not in files]
    if words:
        raise InputError(f"{kit}: wanted the files that the coordinator signed, got {', '.join(words)}; {_AGAIN}")
    if not accepted and f"--superlink={address}" not in (kit / "compose.yml").read_text(encoding="utf-8"):
        raise InputError(f"{kit / 'compose.yml'}: wanted the address {address}, got another; {_AGAIN}")
    return found


def _hashes(kit: Path) -> dict[str, str]:
    """Return the hash of each file in the kit's own folder and in clients/ that may be the coordinator's."""
    files = [file for folder in (kit, kit / "clients") if folder.is_dir() for file in folder.iterdir()]
    return {
        str(file.relative_to(kit)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
        if file.is_file() and file.name != SIGNATURE
    }


def _added(kit: Path, here: Iterable[str], *, accepted: bool) -> list[str]:
    """Return what may be somebody else's: in a new kit anything (compose reads files by itself), later clients only."""
    if accepted:
        return [file for file in here if file.startswith("clients/")]
    rows = [f"data/{file.name}" for file in (kit / "data").iterdir()] if (kit / "data").is_dir() else []
    folders = [file.name for file in kit.iterdir() if not file.is_file() and file.name not in {"clients", "data"}]
    return [*here, *rows, *folders]


def _digits(text: str) -> str:
    return re.sub(r"[^0-9a-f]", "", text.lower().removeprefix("sha256"))
