"""Tables of many participants: the first few, and a summary of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

#: More participants than this are not shown one by one.
MOST = 40
FIRST = 10


def first(items: Sequence[T]) -> Sequence[T]:
    """Return what a table shows: everybody, or the first ones of a crowd."""
    return items if len(items) <= MOST else items[:FIRST]


def rest(count: int) -> str | None:
    """Return the line under a shortened table, or None."""
    return None if count <= MOST else f"... and {count - FIRST} more; result.json has all of them"


def means(participants: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the means of a crowd's receipts, each over those in which it was measured; None without a crowd."""
    if len(participants) <= MOST:
        return None
    from clients.metrics import label  # numpy, where there is something to show

    lines = list(participants.values())
    headline = Counter(line["headline"] for line in lines if "headline" in line)
    if not headline:
        return None
    metric = headline.most_common(1)[0][0]
    found = []
    names = {"local": "alone"} if any("joined" in line["metrics"].get(metric, {}) for line in lines) else {}
    for kind in ("majority", "local", "control", "federated", "joined"):
        values = [line["metrics"].get(metric, {}).get(kind) for line in lines]
        known = [value for value in values if value is not None]
        if known:
            found.append(f"{names.get(kind, kind)} {sum(known) / len(known):.3f} ({len(known)})")
    return f"mean {label(metric)} of {len(lines)} participants: {', '.join(found)}"
