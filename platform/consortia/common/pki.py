"""Makes a certificate authority, server certificates and node keys with `cryptography`.

Elliptic curve P-384 throughout: Flower's node authentication asks for it.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from consortia.common.disk import write_secret
from consortia.common.errors import InputError

_CLOCK_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Authority:
    """A certificate authority."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_authority(name: str, days: int) -> Authority:
    """Return a new self-signed authority, valid for `days`."""
    key = ec.generate_private_key(ec.SECP384R1())
    builder = _builder(_name(name), _name(name), key.public_key(), days).add_extension(
        x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        ),
        critical=True,
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return Authority(builder.sign(key, hashes.SHA384()), key)


def make_server(
    authority: Authority, hosts: Sequence[str], days: int
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a server certificate whose subject alternative names are `hosts` (names or IP addresses)."""
    key = ec.generate_private_key(ec.SECP384R1())
    issuer = authority.certificate.subject
    builder = _builder(_name(hosts[0]), issuer, key.public_key(), days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([host_name(h) for h in hosts]), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
    )
    return builder.sign(authority.key, hashes.SHA384()), key


def write_server(folder: Path, authority: Authority, hosts: Sequence[str], days: int) -> None:
    """Write ca.crt, server.pem and server.key; the authority's own key is not written."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate, key = make_server(authority, hosts, days)
    encoding = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(authority.certificate.public_bytes(encoding))
    (folder / "server.pem").write_bytes(certificate.public_bytes(encoding))
    write_secret(
        folder / "server.key",
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def write_node_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a participant's key pair in OpenSSH format; return (private, public) paths."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = folder / name, folder / f"{name}.pub"
    write_secret(
        private,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ),
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    return private, public


def public_half(private: bytes) -> bytes:
    """Return the public half of a node key in OpenSSH format.

    Raises
    ------
    InputError
        When it is not an elliptic curve key without a passphrase, which Flower's node authentication asks for.
    """
    wanted = (
        "node key: wanted an elliptic curve key in OpenSSH format without a passphrase (ssh-keygen -t ecdsa -b 384)"
    )
    try:
        key = serialization.load_ssh_private_key(private, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(f"{wanted}, got something else") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"{wanted}, got {type(key).__name__}")
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def host_name(host: str) -> x509.GeneralName:
    """Return a host as a certificate names it: an address or a name."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
