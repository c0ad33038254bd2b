"""Reads the keys of a passport: NIST P-384, as identities for secure sums and the coordinator's certificate have."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import SSlibKey

from consortia.common.errors import InputError
from consortia.common.strict import listed, read_toml

__all__ = ["COORDINATOR", "private_key", "public_keys"]

#: The coordinator's key is pinned under this name. No participant may have it.
COORDINATOR = "coordinator"
_WANTED = "wanted a public key or a certificate on the curve P-384"


def public_keys(place: Path) -> dict[str, SSlibKey]:
    """Return the pinned keys by name, the coordinator's under `coordinator`.

    Parameters
    ----------
    place : Path
        A folder with NAME.pem for each (a public key or a certificate), or a TOML file with a line NAME = "hex of DER"
        for each, as `consortia secure key` prints it.

    Raises
    ------
    InputError
        There is nothing at `place`, something there is not a public key, the coordinator has no key, or two names have
        the same key.
    """
    if place.is_dir():
        keys = {file.stem: _from_pem(file.read_bytes(), file) for file in sorted(place.glob("*.pem"))}
    else:
        keys = {name: _from_hex(text, f"{place}: {name}") for name, text in read_toml(place).items()}
    if COORDINATOR not in keys:
        raise InputError(f"{place}: wanted a key called {COORDINATOR}, got {listed(sorted(keys)) or 'none'}; add it")
    first: dict[str, str] = {}
    for name, key in keys.items():
        if (other := first.setdefault(key.keyid, name)) != name:
            raise InputError(f"{place}: wanted a key of its own for each, got one key for {other} and {name}")
    return keys


def private_key(file: Path) -> ec.EllipticCurvePrivateKey:
    """Return a key to sign with; InputError unless it is an unencrypted PEM key on P-384."""
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except FileNotFoundError:
        raise InputError(f"{file}: wanted a private key, got nothing there; check the path") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise InputError(f"{file}: wanted an unencrypted private key in PEM on the curve P-384, got something else")
    return key


def _from_pem(data: bytes, file: Path) -> SSlibKey:
    if b"PRIVATE KEY" in data:
        raise InputError(f"{file}: {_WANTED}, got a private key; a check needs only the public half")
    try:
        if b"BEGIN CERTIFICATE" in data:
            return _pinned(x509.load_pem_x509_certificate(data).public_key(), str(file))
        return _pinned(serialization.load_pem_public_key(data), str(file))
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{file}: {_WANTED}, got something else") from None


def _from_hex(text: object, where: str) -> SSlibKey:
    try:
        return _pinned(serialization.load_der_public_key(bytes.fromhex(str(text))), where)
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{where}: {_WANTED} as hexadecimal DER, got something else") from None


def _pinned(key: object, where: str) -> SSlibKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise InputError(f"{where}: {_WANTED}, got another kind of key")
    return SSlibKey.from_crypto(key)
