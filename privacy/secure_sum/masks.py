"""Pairwise masks that cancel only in the sum of one cohort.

Bonawitz et al. 2017, *Practical Secure Aggregation for Privacy-Preserving Machine Learning*, section 4, without its
double masking, which `privacy.secure_sum.sharing` adds: the cohort is fixed before anything is drawn, and a sum opens
whole or not at all.

Formal guarantees
-----------------
* The key of a mask is derived from a secret of two members and from the whole context (run, contract, roster, round,
  attempt, models, cohorts, encoding, scope). Members whose contexts differ add masks that do not cancel, and the sum is
  uniform to everybody else (X25519, HKDF-SHA256 and AES-256-CTR as pseudorandom functions).
* Every field of a context carries its length, so that no two contexts have the same bytes.
* One key masks one vector: a context is used once, which `consortia.trust.secure_sum.protocol` sees to.
"""

import hashlib
from typing import Final

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.errors import PlanError
from privacy.secure_sum.fixed_point import Word

__all__ = ["PROTOCOL", "add_mask", "derive", "digest", "fields", "pair_key", "sum_words"]

PROTOCOL: Final = "consortia-secure-sum/2"
_CHUNK: Final = 1 << 18  # bytes; no mask of full length is ever held


def fields(*parts: str | int | float | bytes) -> bytes:
    """Return the parts as bytes that no other parts have."""
    out = bytearray()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        kind = b"b" if isinstance(part, bytes) else b"t"
        out += kind + len(data).to_bytes(8, "big") + data
    return bytes(out)


def digest(*parts: str | int | float | bytes) -> bytes:
    """Return SHA-256 of `fields` of the parts."""
    return hashlib.sha256(fields(*parts)).digest()


def derive(secret: bytes, *info: str | int | float | bytes) -> bytes:
    """Return a 32-byte key from `secret` for one purpose (RFC 5869)."""
    return HKDF(hashes.SHA256(), 32, PROTOCOL.encode(), fields(*info)).derive(secret)


def pair_key(own: X25519PrivateKey, peer: bytes, *info: str | int | float | bytes) -> bytes:
    """Return the secret of two members for one run.

    Raises
    ------
    ValueError
        When `peer` is no usable X25519 public key.
    """
    return derive(own.exchange(X25519PublicKey.from_public_bytes(peer)), "pair", *info)


def add_mask(words: Word, key: bytes, *, subtract: bool) -> None:
    """Add (or subtract) the key's stream to `words` in place, modulo 2^32 or 2^64; PlanError for another key."""
    if not isinstance(key, bytes) or len(key) != 32:
        raise PlanError("key: wanted 32 bytes, got something else; take it from derive() or pair_key()")
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    width = words.itemsize
    zeros, buffer = bytes(_CHUNK), bytearray(_CHUNK)
    mask = np.frombuffer(buffer, words.dtype)
    step = _CHUNK // width
    apply = np.subtract if subtract else np.add
    for start in range(0, len(words), step):
        count = min(step, len(words) - start)
        stream.update_into(zeros[: count * width], memoryview(buffer)[: count * width])
        apply(words[start : start + count], mask[:count], out=words[start : start + count])


def sum_words(parts: list[Word]) -> Word:
    """Return the sum of all members' words: masks are gone when all of one context are there. PlanError for none."""
    if not len(parts):
        raise PlanError("parts: wanted the words of one member or more, got none")
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total
