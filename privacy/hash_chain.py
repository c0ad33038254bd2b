"""One link of a hash chain, as the ledger and the log of acts have it.

    head_n = SHA-256(head_(n-1) || JSON([n, kind, fields ...]))        (compact, ASCII; head_0 is 32 zero bytes)

Guarantee: whoever keeps a head can tell whether anything before it was changed, left out, put in or moved.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["ZERO", "next_head"]

#: The head of an empty chain, in hex.
ZERO: Final = "0" * 64
_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def next_head(head: str, seq: int, kind: str, fields: Iterable[Any]) -> str:
    """The head of link `seq`, in hex, of what JSON can write."""
    return hashlib.sha256(bytes.fromhex(head) + _encode([seq, kind, *fields]).encode("ascii")).hexdigest()
