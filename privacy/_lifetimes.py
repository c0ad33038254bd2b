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
from privacy.plans import Budget, RunPlan, plan_from_json

__all__ = ["allowances", "check_unit", "check_units", "joined", "link", "read_events", "read_plan", "sharing", "taken"]

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


def taken(connection: sqlite3.Connection, column: str, values: Sequence[str]) -> list[Event]:
    """Events of all entries, abandoned ones included; equal entries are counted in SQL, not read one by one."""
    places = ", ".join("?" * len(values))
    query = f"SELECT events, COUNT(*) FROM entries WHERE {column} IN ({places}) GROUP BY events"  # noqa: S608 (own names)
    rows = connection.execute(query, tuple(values)).fetchall()
    return [resized(event, event_size(event) * times) for text, times in rows for event in read_events(text)]


def allowances(connection: sqlite3.Connection, datasets: Sequence[str], besides: str | None) -> list[Budget]:
    """Allowances of the runs that took anything: one that was opened only cost nothing."""
    places = ", ".join("?" * len(datasets))
    query = f"SELECT plan FROM runs WHERE run_id IN (SELECT run_id FROM entries WHERE dataset IN ({places}))"  # noqa: S608
    plans = [read_plan(text) for (text,) in connection.execute(query, tuple(datasets))]
    return [plan.allowance for plan in plans if plan.run_id != besides]
