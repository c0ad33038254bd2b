"""A participant's identity for secure sums: an elliptic-curve key that its peers pin.

It is not the SuperNode's key: that key lies beside Flower's processes, so it must not sign anything here.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from consortia.common.disk import write_secret
from consortia.common.errors import RefusedError
from consortia.common.strict import read_toml
from consortia.participant.home import Home

_NAME = "identity.pem"


def make_identity(home: Home) -> str:
    """Make the key if there is none. Return the public key in the form that a policy pins: hex of DER."""
    file = home.kept / _NAME
    if not file.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        write_secret(file, key.private_bytes(encoding, kind, serialization.NoEncryption()))
    return public_hex(load_identity(home))


def load_identity(home: Home) -> ec.EllipticCurvePrivateKey:
    """Return the participant's key; NO_IDENTITY if there is none."""
    try:
        key = serialization.load_pem_private_key((home.kept / _NAME).read_bytes(), None)
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RefusedError("NO_IDENTITY", f"no {_NAME}; make it with `consortia secure key {home.participant}`")
    return key


def public_hex(key: ec.EllipticCurvePrivateKey) -> str:
    """Return the public half."""
    encoding, kind = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, kind).hex()


def pin_each_other(homes: Mapping[str, Home]) -> None:
    """Let every home of one operator pin all others: in a simulation, or for a scenario on one machine."""
    public = {name: make_identity(home) for name, home in homes.items()}
    for name, home in homes.items():
        data = read_toml(home.policy)
        terms = data.setdefault("secure", {})
        terms["peers"] = {**{peer: key for peer, key in public.items() if peer != name}, **terms.get("peers", {})}
        home.change_policy(data)
