"""Checks the folder of certificates, whether made here or brought by the user.

    PKI/ca.crt             the authority (or authorities, one after the other) that everybody trusts
    PKI/ca.key             only where it was made here: with it certificates are renewed, else they are only checked
    PKI/superlink.pem      certificate of the SuperLink, for superlink and localhost, and what is between it and ca.crt
    PKI/superlink.key      its private key, unencrypted
    PKI/proxy.pem          certificate of the proxy, for proxy, localhost and the host that others call
    PKI/proxy.key          its private key, unencrypted

All of them PEM. Nothing of a participant lies here: its node key is its own, and a node key has no certificate.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from consortia.common import acts
from consortia.common.disk import write_secret
from consortia.common.errors import InputError
from consortia.common.pki import Authority, host_name, make_authority, make_server

AUTHORITY_DAYS = 3650
SERVER_DAYS = 365
#: A certificate with fewer days left is renewed, or, where that cannot be done here, complained about.
DUE_DAYS = 30
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Pair:
    """A certificate with its key.

    Attributes
    ----------
    name : str
        Of the files.
    hosts : tuple of str
        Names or addresses under which it is called.
    """

    name: str
    hosts: tuple[str, ...]


def pairs(address: str) -> tuple[Pair, Pair]:
    """Return what the coordinator needs; `address` is the host:port that participants elsewhere call, or empty."""
    outside = (address.rpartition(":")[0].strip("[]"),) if address else ()
    return Pair("superlink", ("superlink", "localhost")), Pair("proxy", ("proxy", "localhost", *outside))


def ensure(folder: Path, wanted: Sequence[Pair], *, renew: bool = False) -> list[str]:
    """Make what is missing and renew what is due, where the authority's key lies here; check everything.

    Parameters
    ----------
    renew : bool
        Renew the servers' certificates, due or not.

    Returns
    -------
    list of str
        What was made.

    Raises
    ------
    InputError
        With one sentence for each thing that is wrong with the folder. What the user brought is never changed.
    """
    made = []
    if not any((folder / name).exists() for name in _files(wanted)):
        folder.mkdir(parents=True, exist_ok=True)
        with acts.noted(folder, "authority.make"):
            authority = make_authority("consortia", AUTHORITY_DAYS)
            (folder / "ca.crt").write_bytes(authority.certificate.public_bytes(_PEM))
            write_secret(folder / "ca.key", _private(authority.key))
        made.append("authority")
    if (folder / "ca.key").exists():
        authority = _authority(folder)
        for pair in wanted:
            if renew or _is_due(folder, pair):
                with acts.noted(folder, "certificate.renew", pair.name):
                    certificate, key = make_server(authority, pair.hosts, SERVER_DAYS)
                    write_secret(folder / f"{pair.name}.key", _private(key))
                    (folder / f"{pair.name}.pem").write_bytes(certificate.public_bytes(_PEM))
                made.append(f"certificate of {pair.name}")
    if problems := check(folder, wanted):
        raise InputError(*problems)
    return made


def check(folder: Path, wanted: Sequence[Pair]) -> list[str]:
    """Return one sentence for each thing that is wrong, naming file, wanted, got and what to do."""
    missing = [name for name in _files(wanted) if not (folder / name).is_file()]
    if missing:
        return [f"{folder / name}: wanted a PEM file, got nothing there; bring it, or empty the folder and all is made"
                for name in missing]  # fmt: skip
    try:
        trusted = x509.load_pem_x509_certificates((folder / "ca.crt").read_bytes())
    except ValueError:
        return [f"{folder / 'ca.crt'}: wanted certificates in PEM, got something else"]
    problems = [problem for certificate in trusted for problem in validity(folder / "ca.crt", certificate)]
    for pair in wanted:
        problems += _check_pair(folder, pair, trusted)
    return problems


def expiry(path: Path) -> datetime.datetime:
    """Return when the (first) certificate of a file ends."""
    return x509.load_pem_x509_certificates(path.read_bytes())[0].not_valid_after_utc


def alternative_names(certificate: x509.Certificate) -> list[str]:
    """Return the names and addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *(str(ip) for ip in names.get_values_for_type(x509.IPAddress))]


def covers(certificate: x509.Certificate, host: str) -> bool:
    """Return whether a certificate is for a host; a star stands for the first label."""
    names = [name.lower() for name in alternative_names(certificate)]
    wanted = str(host_name(host).value).lower()
    return wanted in names or f"*.{wanted.partition('.')[2]}" in names


def _check_pair(folder: Path, pair: Pair, trusted: Sequence[x509.Certificate]) -> list[str]:
    file, key_file = folder / f"{pair.name}.pem", folder / f"{pair.name}.key"
    try:
        chain = x509.load_pem_x509_certificates(file.read_bytes())
    except ValueError:
        return [f"{file}: wanted a certificate in PEM, got something else"]
    problems = validity(file, chain[0])
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    except TypeError:
        return [*problems, f"{key_file}: wanted a key without a passphrase, got an encrypted one; nobody can type it"]
    except ValueError:
        return [*problems, f"{key_file}: wanted a private key in PEM, got something else"]
    if _public(key.public_key()) != _public(chain[0].public_key()):
        problems.append(f"{key_file}: wanted the key of {file.name}, got another one")
    if missing := [host for host in pair.hosts if not covers(chain[0], host)]:
        got = ", ".join(alternative_names(chain[0])) or "none"
        problems.append(
            f"{file}: subject alternative names: wanted {', '.join(missing)}, got {got}; have it issued for these too"
        )
    if not is_signed(chain, trusted):
        problems.append(
            f"{file}: wanted a certificate that ca.crt has signed, got one by {chain[-1].issuer.rfc4514_string()}; "
            "append what lies between, or put its authority into ca.crt"
        )
    return problems


def is_signed(chain: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate]) -> bool:
    """Return whether each certificate is signed by the next and one of them by a trusted one."""
    for place, certificate in enumerate(chain):
        if any(_issued(certificate, authority) for authority in trusted):
            return True
        if place + 1 < len(chain) and not _issued(certificate, chain[place + 1]):
            return False
    return False


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def validity(file: Path, certificate: x509.Certificate) -> list[str]:
    now = datetime.datetime.now(datetime.UTC)
    if certificate.not_valid_after_utc < now:
        return [f"{file}: wanted a valid certificate, got one that ended on {certificate.not_valid_after_utc:%Y-%m-%d}"]
    if certificate.not_valid_before_utc > now:
        start = certificate.not_valid_before_utc
        return [f"{file}: wanted a valid certificate, got one that starts on {start:%Y-%m-%d}; is this clock right?"]
    return []


def _is_due(folder: Path, pair: Pair) -> bool:
    """Return whether a certificate is missing, ends soon, or lacks a host."""
    try:
        certificate = x509.load_pem_x509_certificates((folder / f"{pair.name}.pem").read_bytes())[0]
    except (OSError, ValueError):
        return True
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left < datetime.timedelta(days=DUE_DAYS) or not all(covers(certificate, host) for host in pair.hosts)


def _authority(folder: Path) -> Authority:
    try:
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificates((folder / "ca.crt").read_bytes())[0]
    except (OSError, ValueError, TypeError):
        raise InputError(f"{folder}: wanted ca.key and ca.crt as they were made here, got something else") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{folder / 'ca.key'}: wanted the key that was made here; remove it if the authority is yours")
    return Authority(certificate, key)


def _files(wanted: Sequence[Pair]) -> list[str]:
    return ["ca.crt", *(f"{pair.name}.{kind}" for pair in wanted for kind in ("pem", "key"))]


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded
