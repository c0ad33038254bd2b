"""Seals messages between two participants. The coordinator relays bytes that it cannot read.

A participant has one long-lived Ed25519 identity key. The others receive its public half out of band and pin it in
their own policies. For each run and batch the participant makes a new X25519 key, and signs it together with contract,
run, batch and its name. Two participants derive a key from X25519 and seal with ChaCha20-Poly1305. The additional data
name contract, run, batch, step, sender and receiver, so a message cannot be replayed elsewhere.

Formal guarantees: secrecy and integrity against the coordinator and the network, with pinned keys. Sizes, times and the
names of the participants are not hidden. Without pinning the coordinator could be a man in the middle, so an unpinned
or wrongly signed key is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from consortia.common.errors import RefusedError
from consortia.vertical.store import keep_once

__all__ = ["KEY_PREFIX", "Greeting", "Session", "identity", "public_text"]

KEY_PREFIX: Final = "ed25519:"
_LENGTH: Final = 32
_SIGNATURE: Final = 64


@dataclass(frozen=True)
class Session:
    """The session of a message: contract, run and batch."""

    contract_sha256: str
    run_id: str
    batch: int

    def bytes(self, *parts: str) -> bytes:
        """Return an unambiguous encoding of the session and further parts."""
        fields = ("consortia vertical 1", self.contract_sha256, self.run_id, str(self.batch), *parts)
        return b"".join(len(f.encode()).to_bytes(4, "big") + f.encode() for f in fields)


def identity(folder: Path) -> Ed25519PrivateKey:
    """Return the participant's identity key. It is made on first use, and only its owner can read it."""
    raw = keep_once(folder / "identity.key", lambda: Ed25519PrivateKey.generate().private_bytes_raw())
    return Ed25519PrivateKey.from_private_bytes(raw)


def public_text(folder: Path) -> str:
    """Return the public half as others write it into their policies: `ed25519:` and 64 hexadecimal digits."""
    return KEY_PREFIX + identity(folder).public_key().public_bytes_raw().hex()


class Greeting:
    """One participant's new key for a session. It seals and opens messages with it.

    Parameters
    ----------
    folder : Path
        The participant's home, with its identity key.
    keep : Path
        File of the new key until the run is over. A repeated greeting is the same to the byte.
    """

    def __init__(self, folder: Path, keep: Path, session: Session, name: str) -> None:
        self.session = session
        self.name = name
        self._identity = identity(folder)
        raw = keep_once(keep, lambda: X25519PrivateKey.generate().private_bytes_raw())
        self._key = X25519PrivateKey.from_private_bytes(raw)

    def public(self) -> bytes:
        """Return the fresh public key and its signature, 96 bytes (Ed25519 signatures are deterministic)."""
        key = self._key.public_key().public_bytes_raw()
        return key + self._identity.sign(self.session.bytes("greeting", self.name) + key)

    def key_with(self, other: str, greeting: bytes, pinned: str, purpose: str) -> bytes:
        """Return the 32-byte key shared with `other` for one purpose.

        Raises
        ------
        RefusedError
            With code PEER_NOT_PINNED if the pinned key did not sign the greeting for this session.
        """
        key, signature = greeting[:_LENGTH], greeting[_LENGTH:]
        try:
            if len(signature) != _SIGNATURE:
                raise InvalidSignature
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(pinned.removeprefix(KEY_PREFIX))).verify(
                signature, self.session.bytes("greeting", other) + key
            )
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(key))
        except (InvalidSignature, ValueError):
            raise RefusedError("PEER_NOT_PINNED", f"the key of {other} is not signed by the one pinned here") from None
        pair = sorted((self.name, other))
        return HKDF(SHA256(), 32, salt=None, info=self.session.bytes("key", purpose, *pair)).derive(shared)

    def seal(self, key: bytes, step: str, receiver: str, data: bytes) -> bytes:
        """Return nonce and ciphertext. Only the named receiver can open it, and only for this step and session."""
        nonce = os.urandom(12)
        return nonce + ChaCha20Poly1305(key).encrypt(nonce, data, self._bound(step, self.name, receiver))

    def open(self, key: bytes, step: str, sender: str, data: bytes) -> bytes:
        """Return what `sender` sealed for us; RefusedError with code BAD_MESSAGE for anything else."""
        try:
            return ChaCha20Poly1305(key).decrypt(data[:12], data[12:], self._bound(step, sender, self.name))
        except (InvalidTag, ValueError):
            raise RefusedError("BAD_MESSAGE", f"what should come from {sender} cannot be opened") from None

    def _bound(self, step: str, sender: str, receiver: str) -> bytes:
        return self.session.bytes("message", step, sender, receiver)
