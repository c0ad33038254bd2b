"""Targets of each kind, for schemas that tests make up."""

from __future__ import annotations

from typing import Final

from clients.schema import Target

#: One target of each kind.
TARGETS: Final = {
    "binary": Target(name="y", kind="binary", classes=("no", "yes")),
    "multiclass": Target(name="y", kind="multiclass", classes=("a", "b", "c")),
    "regression": Target(name="y", kind="regression", low=-10, high=30),
}


def lettered(kind: str) -> Target:
    """Return a target whose classes are letters: two of a binary one, three of any other that is no regression."""
    if kind == "binary":
        return Target(name="y", kind="binary", classes=("a", "b"))
    return TARGETS["regression" if kind == "regression" else "multiclass"]
