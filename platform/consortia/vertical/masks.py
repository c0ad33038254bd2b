"""The masked sum: the label owner gets the sum of the partners' scores of a row, not each partner's (Bonawitz et al.
2017).

Each pair of partners shares a key. It gives one word of 32 bits for each row; one partner adds it and the other
subtracts it, modulo 2^32. All masks cancel in the sum over all partners, and in no smaller sum. A word holds the
score's code in its low 16 bits and "I know this row" in its high bits, so the sum tells how many partners know the row.

A key is bound to the session, the attempt and the set of partners, and is used once. A sum of one partner hides nothing
and is refused. If only one partner knows a row, the sum shows that partner's score. If the other partners collude, it
shows the score of every row.
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
    """Return this partner's words with the masks of every other partner.

    Parameters
    ----------
    codes : (n,)
        Scores, `MISSING` where the row is not known.
    me : str
    keys : mapping
        The 32-byte key shared with each other partner for this attempt, by name.
    """
    if not keys:
        raise ArgumentError("masked sum: wanted two or more partners, got one; a sum of one hides nothing")
    words = np.where(codes == MISSING, 0, codes.astype(np.uint32) + _KNOWN).astype(np.uint32)
    for other, key in keys.items():
        mask = _stream(key, len(codes))
        words = words + mask if me < other else words - mask
    return words


def add_up(parts: Mapping[str, Words]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sum of codes and the number of partners that know the row, (n,) each. All partners are needed.

    ArgumentError if there are no words, or different numbers of them.
    """
    if len({words.shape for words in parts.values()}) != 1:
        raise ArgumentError("parts: wanted as many words of each partner, got none or different numbers")
    total = np.sum(np.stack(list(parts.values())).astype(np.uint64), axis=0) % 2**32
    return (total % _KNOWN).astype(np.int64), (total // _KNOWN).astype(np.int64)


def _stream(key: bytes, count: int) -> Words:
    # The key is used only once, so the nonce may be fixed.
    encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(encryptor.update(bytes(4 * count)), dtype="<u4").astype(np.uint32)
