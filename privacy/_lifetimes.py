"""Tells which data sets of a ledger share one lifetime, and what was taken from it.

A link between two data sets is a note of the ledger's chain, `{"what": "one lifetime", "datasets": [a, b]}`: no table
changes, a ledger of before opens as it is, and a link is never undone. Links add up: a with b and b with c are three
data sets with one lifetime. The accounts of a data set (`heart`, `heart/evaluation`, ...) share with those of the same
kind only, for they count other units or under another relation.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

from privacy.errors import ContractMismatchError, PlanError
from privacy.events import Event, event_from_json, event_size, resized
from privacy.plans import Entry, RunPlan, plan_from_json

__all__ = ["check_unit", "check_units", "entries", "joined", "link", "read_events", "read_plan", "sharing", "taken"]

_WHAT: Final = "one lifetime"


@lru_cache(maxsize=1024)
def read_events(text: str) -> tuple[Event, ...]:
    """Events as an entry stores them."""
    return tuple(event_from_json(record) for record in json.loads(text))


@lru_cache(maxsize=256)
def read_plan(text: str) -> RunPlan:
    """The plan as a run stores it."""
    return plan_from_json(json.loads(text))


def link(dataset: str, other: str) -> dict[str, Any]:
    """The note that puts two data sets under one lifetime; PlanError when they are not two data sets."""
    for name in (dataset, other):
        if not isinstance(name, str) or not name or "/" in name or dataset == other:
            raise PlanError(f"dataset and other: wanted the names of two data sets, got {dataset!r} and {other!r}")
    return {"what": _WHAT, "datasets": sorted((dataset, other))}


def joined(links: Iterable[Sequence[str]], dataset: str) -> tuple[str, ...]:
    """All that is linked with `dataset`, directly or by others, itself included, sorted."""
    found, sets = {dataset}, [set(pair) for pair in links]
    while more := [pair for pair in sets if pair & found and not pair <= found]:
        found.update(*more)
    return tuple(sorted(found))


def sharing(connection: sqlite3.Connection, account: str, also: Sequence[tuple[str, str]] = ()) -> tuple[str, ...]:
    """The accounts with one lifetime with `account`, itself included; `also` are links that are not written yet."""
    dataset, slash, kind = account.partition("/")
    query = "SELECT text FROM notes WHERE text LIKE ? ORDER BY id"
    notes = [json.loads(text) for (text,) in connection.execute(query, (f'%"{_WHAT}"%',))]
    links = [note["datasets"] for note in notes if note.get("what") == _WHAT]
    return tuple(f"{name}{slash}{kind}" for name in joined([*links, *also], dataset))


def check_unit(connection: sqlite3.Connection, account: str, unit: str) -> None:
    """Raise ContractMismatchError when anything in the lifetime of `account` was counted by another unit."""
    query = (
        "SELECT DISTINCT unit FROM runs WHERE dataset = ? AND unit != ? "
        "AND run_id IN (SELECT run_id FROM entries)"  # a run that was opened only has spent nothing
    )
    for dataset in sharing(connection, account):
        for (other,) in connection.execute(query, (dataset, unit)):
            raise ContractMismatchError(
                f"unit: the ledger counts data set {dataset!r} by {other!r}, got {unit!r}; "
                "budgets under different units cannot be added"
            )


def check_units(connection: sqlite3.Connection, dataset: str) -> None:
    """Raise ContractMismatchError when what shares a lifetime with `dataset` has been counted by different units."""
    group = sharing(connection, dataset)
    query = "SELECT DISTINCT dataset, unit FROM runs WHERE run_id IN (SELECT run_id FROM entries)"
    for account, unit in connection.execute(query).fetchall():
        if account.partition("/")[0] in group:
            check_unit(connection, account, unit)


def taken(connection: sqlite3.Connection, run_id: str) -> list[Event]:
    """Events of all entries of a run, abandoned ones included; equal ones are counted in SQL, not read one by one."""
    rows = connection.execute("SELECT events, COUNT(*) FROM entries WHERE run_id = ? GROUP BY events", (run_id,))
    return [resized(event, event_size(event) * times) for text, times in rows for event in read_events(text)]


def entries(connection: sqlite3.Connection, run_id: str | None, dataset: str | None) -> list[Entry]:
    """Entries (of a run, of a data set), oldest first; `cohort` where their units were claimed."""
    query = (
        "SELECT seq, run_id, dataset, round, key, state, events, reply_sha256, created, cohorts.entry IS NOT NULL "
        "FROM entries LEFT JOIN cohorts ON cohorts.entry = seq "
        "WHERE (?1 IS NULL OR run_id = ?1) AND (?2 IS NULL OR dataset = ?2) ORDER BY seq"
    )
    return [
        Entry(seq, run, data, round_, sha, state, read_events(events), reply, created, bool(cohort))
        for seq, run, data, round_, sha, state, events, reply, created, cohort in connection.execute(
            query, (run_id, dataset)
        )
    ]
