"""Shares of the masks' keys, so that a sum opens although members drop out.

Bonawitz et al. 2017, *Practical Secure Aggregation for Privacy-Preserving Machine Learning*, sections 4 and 6: every
member adds a mask of its own to its words, and gives each member of the attempt a share of that mask's key and of each
key that it has with a peer (Shamir 1979, *How to Share a Secret*). Of a member that is alive the shares of its own
mask's key are told, of one that is dead those of the keys that the living have with it; never both.

Formal guarantees
-----------------
* `threshold` - 1 shares of a secret are independent of it: the polynomial's coefficients are uniform modulo a prime
  above 2^256, from a key stream of the attempt (a restored machine shares no two secrets by one polynomial).
* Two different sets of `threshold` members have more than `colluders` members in common, so an honest one: what each
  honest member does once an attempt cannot happen twice.
* A box is AES-256-GCM under a key of its own, for one direction and one context.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.errors import PlanError
from privacy.randomness import KeyStream

__all__ = ["SHARE_BYTES", "box_bytes", "combine", "open_box", "seal_box", "share", "threshold"]

_PRIME: Final = 2**256 + 297
SHARE_BYTES: Final = 33
_NONCE, _TAG = 12, 16


def threshold(members: int, colluders: int) -> int:
    """Return how many members must agree: more than half of all members and colluders together."""
    return (members + colluders) // 2 + 1


def share(secret: bytes, holders: int, least: int, stream: KeyStream) -> list[bytes]:
    """Return one share of a 32-byte secret for each holder 1, 2, ...; `least` of them give it back.

    Parameters
    ----------
    stream : where the coefficients come from; the next secret's come from what follows in it.
    """
    coefficients = [int.from_bytes(secret, "big"), *(_below_prime(stream) for _ in range(least - 1))]

    def at(x: int) -> bytes:
        value = 0
        for coefficient in reversed(coefficients):
            value = (value * x + coefficient) % _PRIME
        return value.to_bytes(SHARE_BYTES, "big")

    return [at(x) for x in range(1, holders + 1)]


def _below_prime(stream: KeyStream) -> int:
    """Return a uniform number below the prime, by rejection from 257 bits."""
    while True:
        value = int.from_bytes(stream.bytes(40), "big") >> 63
        if value < _PRIME:
            return value


def combine(shares: Mapping[int, bytes], least: int) -> bytes:
    """Return the secret from shares by holder (1, 2, ...): Lagrange's polynomial at 0.

    Raises
    ------
    PlanError
        With fewer than `least` shares.
    """
    if len(shares) < least:
        raise PlanError(f"shares: wanted {least}, got {len(shares)}")
    points = sorted(shares.items())[:least]
    secret = 0
    for x, data in points:
        above, below = 1, 1
        for z, _ in points:
            if z != x:
                above, below = above * -z % _PRIME, below * (x - z) % _PRIME
        secret += int.from_bytes(data, "big") * above * pow(below, -1, _PRIME)
    return (secret % _PRIME % 2**256).to_bytes(32, "big")


def seal_box(key: bytes, shares: Sequence[bytes]) -> bytes:
    """Return the shares of one holder, sealed under the box's key."""
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, b"".join(shares), None)


def open_box(key: bytes, box: bytes, count: int) -> list[bytes]:
    """Return the `count` shares of a box.

    Raises
    ------
    PlanError
        When the box was sealed under another key, or holds something else.
    """
    try:
        data = AESGCM(key).decrypt(box[:_NONCE], box[_NONCE:], None)
    except (InvalidTag, ValueError):
        raise PlanError("box: wanted one that this peer sealed for this attempt") from None
    if len(data) != count * SHARE_BYTES:
        raise PlanError(f"box: wanted {count} shares")
    return [data[i : i + SHARE_BYTES] for i in range(0, len(data), SHARE_BYTES)]


def box_bytes(count: int) -> int:
    """Return the size of a box of `count` shares."""
    return _NONCE + count * SHARE_BYTES + _TAG
