"""Writes the state of a participant's ledger (number and head of its chain) into a header, and reads it."""

from __future__ import annotations

from privacy.ledger import Anchor

COUNTER, HEAD = "ledger_counter", "ledger_head"


def anchor_from(header: dict[str, str]) -> Anchor | None:
    """Return the pair of a message; None if it has none. ValueError if it is malformed."""
    counter, head = header.get(COUNTER), header.get(HEAD)
    if counter is None and head is None:
        return None
    if counter is None or head is None:
        raise ValueError(f"{COUNTER} and {HEAD}: wanted both or neither")
    if not (counter.isascii() and counter.isdigit() and len(counter) <= 15 and int(counter) > 0):
        raise ValueError(f"{COUNTER}: wanted a whole number > 0, got {counter[:20]!r}")
    if len(head) != 64 or set(head) - set("0123456789abcdef"):
        raise ValueError(f"{HEAD}: wanted 64 hexadecimal digits")
    return Anchor(int(counter), head)


def to_header(anchor: Anchor | None) -> dict[str, str]:
    """Write the pair for a message."""
    return {} if anchor is None else {COUNTER: str(anchor.counter), HEAD: anchor.head}
