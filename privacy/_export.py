"""Exports the whole ledger as JSON-able data, for an auditor who recounts epsilon and the chain."""

import json
import sqlite3
from typing import Any

from privacy._chain import links_of
from privacy.events import RELATION

_ENTRY = ("seq", "run_id", "dataset", "round", "key", "state", "events", "reply_sha256", "created")


def export(connection: sqlite3.Connection, participant: str) -> dict[str, Any]:
    """Return runs, entries, notes and the chain; `chained` holds the fields of a run's link as they were hashed.

    Marks of units stay at home: `claims` of an entry is the hash of its cohort, which is in the entry's link.
    """
    query = "SELECT run_id, dataset, unit, contract_sha256, plan, bounds, created FROM runs ORDER BY rowid"
    runs = connection.execute(query).fetchall()
    entries = connection.execute(f"SELECT {', '.join(_ENTRY)} FROM entries ORDER BY seq").fetchall()  # noqa: S608
    notes = connection.execute("SELECT id, text, created FROM notes ORDER BY id").fetchall()
    claims = dict(connection.execute("SELECT entry, claims FROM cohorts").fetchall())
    (schema,) = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    (salt,) = connection.execute("SELECT value FROM meta WHERE name = 'salt'").fetchone()
    links = links_of(connection)
    return {
        "schema": int(schema),
        "participant": participant,
        "relation": RELATION,
        "units": {dataset: unit for _, dataset, unit, *_ in runs},
        "counter": links[-1][0],
        "head": links[-1][3],
        "salt": salt,
        "runs": [{**json.loads(row[4]), "chained": list(row[:-1]), "opened": row[-1]} for row in runs],
        "entries": [
            {
                **dict(zip(_ENTRY, row, strict=True)),
                "events": json.loads(row[_ENTRY.index("events")]),
                **({"claims": claims[row[0]]} if row[0] in claims else {}),
            }
            for row in entries
        ],
        "notes": [{"id": number, "note": json.loads(text), "created": made} for number, text, made in notes],
        "chain": [dict(zip(("seq", "kind", "ref", "head"), link, strict=True)) for link in links],
    }
