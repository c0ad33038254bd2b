"""The message of a label owner to a partner: blinded points and a noisy label for each row."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consortia.common.errors import RefusedError
from consortia.vertical.grid import MISSING
from privacy.events import CHANGE_LABEL

__all__ = ["pack", "unpack"]


def pack(epsilon: float, points: bytes, labels: bytes = b"") -> bytes:
    """Return the message: a length, what it says of itself, points, labels (none in a batch of new persons)."""
    told = {"epsilon": None if math.isinf(epsilon) else epsilon, "points": len(points), "relation": CHANGE_LABEL}
    text = json.dumps(told, sort_keys=True).encode()
    return len(text).to_bytes(4, "big") + text + points + labels


def unpack(message: bytes) -> tuple[float, bytes, NDArray[np.uint8]]:
    """Return epsilon of the labels (infinite without noise), points, and labels: 0, 1 or `MISSING`.

    Raises
    ------
    RefusedError
        With code BAD_MESSAGE for anything else: a third value would be a third class of the partner's model.
    """
    length = int.from_bytes(message[:4], "big")
    try:
        told: Any = json.loads(message[4 : 4 + length])
        epsilon = math.inf if told["epsilon"] is None else float(told["epsilon"])
        count = int(told["points"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise RefusedError("BAD_MESSAGE", "labels: wanted what a label owner sends, got something else") from None
    body = message[4 + length :]
    labels = np.frombuffer(body[count:], dtype=np.uint8)
    if not 0 <= count <= len(body) or not (told["epsilon"] is None or 0 < epsilon < math.inf):
        raise RefusedError("BAD_MESSAGE", "labels: wanted epsilon > 0 and as many points as it says")
    if not np.isin(labels, (0, 1, MISSING)).all():
        raise RefusedError("BAD_MESSAGE", "labels: wanted 0, 1 or 'none' for each row, got another value")
    return epsilon, body[:count], labels
