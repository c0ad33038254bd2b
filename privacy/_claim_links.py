"""What a ledger's chain holds of the claims of a growing run (`privacy.claims`): the hash of each cohort."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable

__all__ = ["digest", "link_fields"]


def digest(blind: bytes, marks: Iterable[bytes]) -> str:
    """The hash of a cohort, as a link of the chain and an export have it.

    `blind` is random and stays at home. Without it everybody would know the hash of a cohort of nobody.
    """
    return hashlib.sha256(blind + b"".join(sorted(marks))).hexdigest()


def link_fields(connection: sqlite3.Connection) -> dict[int, tuple[str, ...]]:
    """What the links of reservations hold of claims, by entry, recounted from the table.

    Where a cohort's hash is not that of its marks, or a mark has no cohort of its run and data set, the field is one
    that no link has.
    """
    marks: dict[tuple[str, str], list[bytes]] = {}
    first: dict[tuple[str, str], set[int]] = {}
    for dataset, run_id, entry, mark in connection.execute("SELECT dataset, run_id, entry, mark FROM claims"):
        marks.setdefault((dataset, run_id), []).append(mark)
        first.setdefault((dataset, run_id), set()).add(entry)
    fields: dict[int, tuple[str, ...]] = {}
    begins: dict[tuple[str, str], int] = {}
    query = "SELECT cohorts.entry, dataset, run_id, claims, blind FROM cohorts LEFT JOIN entries ON seq = cohorts.entry"
    for entry, dataset, run_id, told, blind in connection.execute(f"{query} ORDER BY cohorts.entry"):
        begins.setdefault((dataset, run_id), entry)
        fields[entry] = (told if digest(blind, marks.get((dataset, run_id), ())) == told else "broken",)
    for where, entries in first.items():
        if entries != {begins.get(where)}:
            fields |= dict.fromkeys(entries, ("broken",))
    return fields
