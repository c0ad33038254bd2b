"""The masked sum: the label owner gets the sum of the partners' scores of a row, not each partner's (Bonawitz et al.
2017).

Each pair of partners shares a key; from it comes one word of 32 bits for each row, which one adds and the other
subtracts,
modulo 2^32. All masks cancel in the sum over all partners and in no smaller sum. A word holds the score's code in
its low 16 bits and "I know this row" in the high ones, so that the sum tells how many know it.

A key is bound to the session, the attempt and the set of partners, and is used once. With one partner a sum hides
nothing and is
refused; a row that one partner alone knows shows that partner's score (and all of it if the others collude).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from consortia.common.errors import ArgumentError
from consortia.vertical.grid import MISSING

__all__ = ["add_up", "masked"]

Words = NDArray[np.uint32]
_KNOWN = 1 << 16


def masked(codes: NDArray[np.uint8], me: str, keys: Mapping[str, bytes]) -> Words:
    """Return my words with every other partner's mask on them.

    Parameters
    ----------
    codes : (n,)
        Scores, `MISSING` where the row is not known.
    me : str
    keys : mapping
        The other partners' names to the 32-byte key shared with each for this very attempt.
    """
    if not keys:
        raise ArgumentError("masked sum: wanted two or more partners, got one; a sum of one hides nothing")
    words = np.where(codes == MISSING, 0, codes.astype(np.uint32) + _KNOWN).astype(np.uint32)
    for other, key in keys.items():
        mask = _stream(key, len(codes))
        words = words + mask if me < other else words - mask
    return words


def add_up(parts: Mapping[str, Words]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return sum of codes and number of partners that know the row, (n,) each; all partners are needed.

    ArgumentError when they have no words, or not as many as each other.
    """
    if len({words.shape for words in parts.values()}) != 1:
        raise ArgumentError("parts: wanted as many words of each partner, got none or different numbers")
    total = np.sum(np.stack(list(parts.values())).astype(np.uint64), axis=0) % 2**32
    return (total % _KNOWN).astype(np.int64), (total // _KNOWN).astype(np.int64)


def _stream(key: bytes, count: int) -> Words:
    # The key is fresh for this use, so the nonce may be fixed.
    encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(encryptor.update(bytes(4 * count)), dtype="<u4").astype(np.uint32)
