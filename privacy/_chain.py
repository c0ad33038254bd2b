"""The hash chain of a ledger, by which a ledger that lost entries is recognised.

Every durable change is one link: the ledger's making, a run's plan, a reservation, a commit, a note. With the rows of
the tables as its fields,

    head_n = SHA-256(head_(n-1) || JSON([n, kind, fields ...]))        (compact, ASCII; head_0 is 32 zero bytes)

* (counter, head) is the number of links and the last head. Whoever keeps the pair recognises a ledger that was
  truncated, restored from a backup or deleted (it is *behind*) and one that went another way (it is *forked*).
* The first link holds 32 random bytes that never leave, so that a head is a hiding commitment: nobody outside can
  guess at what it was made of. Times are not in the chain; what is, is a constant of plan, policy and message, an
  event, or the hash of a reply that had its event.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from privacy._claim_links import link_fields
from privacy.errors import LedgerBehindError, LedgerBrokenError, LedgerForkedError
from privacy.hash_chain import ZERO, next_head

__all__ = ["Anchor", "verify_export"]

Link = tuple[int, str, str, str]


@dataclass(frozen=True)
class Anchor:
    """A place in the chain: how many links, and the head of the last."""

    counter: int
    head: str


def latest(connection: sqlite3.Connection) -> Anchor:
    """The end of the chain."""
    row = connection.execute("SELECT seq, head FROM chain ORDER BY seq DESC LIMIT 1").fetchone()
    return Anchor(0, ZERO) if row is None else Anchor(*row)


def append(connection: sqlite3.Connection, kind: str, ref: str, fields: Iterable[Any]) -> Anchor:
    """Add a link within the transaction that writes what it is about; return the chain's new end."""
    last = latest(connection)
    seq = last.counter + 1
    head = next_head(last.head, seq, kind, fields)
    connection.execute("INSERT INTO chain (seq, kind, ref, head) VALUES (?, ?, ?, ?)", (seq, kind, ref, head))
    return Anchor(seq, head)


def created(meta: Mapping[str, str]) -> tuple[str, str]:
    """The fields of the first link."""
    return meta["participant"], meta["salt"]


def of_run(connection: sqlite3.Connection, run_id: str) -> Anchor | None:
    """The link of a run's latest reservation: it does not move while others use the ledger."""
    row = connection.execute(
        "SELECT chain.seq, head FROM chain WHERE kind = 'reserved' "
        "AND ref = (SELECT CAST(MAX(seq) AS TEXT) FROM entries WHERE run_id = ?)",
        (run_id,),
    ).fetchone()
    return None if row is None else Anchor(*row)


def check(connection: sqlite3.Connection, known: Anchor) -> None:
    """Refuse when the chain does not hold `known`, which somebody got from this ledger.

    Raises
    ------
    LedgerBehindError
        The chain is shorter: rows are missing that were charged.
    LedgerForkedError
        Another link stands in that place: this is not the ledger, or not all of it.
    """
    (end,) = connection.execute("SELECT COALESCE(MAX(seq), 0) FROM chain").fetchone()
    if end < known.counter:
        raise LedgerBehindError(
            f"ledger: wanted at least {known.counter} links, which it had when a reply left, got {end}; it was "
            "truncated, restored from a backup or made anew"
        )
    row = connection.execute("SELECT head FROM chain WHERE seq = ?", (known.counter,)).fetchone()
    if row is None or row[0] != known.head:
        raise LedgerForkedError(
            f"ledger: wanted head {known.head[:12]} at link {known.counter}, got "
            f"{'none' if row is None else row[0][:12]}; another ledger lies there, or an older one that went on"
        )


def links_of(connection: sqlite3.Connection) -> list[Link]:
    """All links: (seq, kind, ref, head)."""
    return connection.execute("SELECT seq, kind, ref, head FROM chain ORDER BY seq").fetchall()


def _tables(connection: sqlite3.Connection) -> dict[tuple[str, str], tuple[Any, ...]]:
    """The fields of every link that the tables ask for, by (kind, ref)."""
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    wanted: dict[tuple[str, str], tuple[Any, ...]] = {("created", ""): created(meta)}
    query = "SELECT run_id, dataset, unit, contract_sha256, plan, bounds FROM runs ORDER BY rowid"
    for row in connection.execute(query):
        wanted["run", row[0]] = tuple(row)
    query = "SELECT seq, run_id, dataset, round, key, events, reply_sha256 FROM entries ORDER BY seq"
    claims = link_fields(connection)
    for *row, reply in connection.execute(query):
        wanted["reserved", str(row[0])] = (*row, *claims.pop(row[0], ()))
        if reply is not None:
            wanted["committed", str(row[0])] = (row[0], reply)
    for number, text in connection.execute("SELECT id, text FROM notes ORDER BY id"):
        wanted["note", str(number)] = (number, text)
    wanted |= {("claims", str(entry)): fields for entry, fields in claims.items()}  # of no entry: no link has them
    return wanted


def verify(connection: sqlite3.Connection) -> Anchor:
    """Recount every link from the tables; return the end of the chain.

    Raises
    ------
    LedgerBrokenError
        A link that its row does not give, a row without a link, or a link without a row.
    """
    with snapshot(connection):
        return _recount(links_of(connection), _tables(connection))


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Read one state of the file, whatever others write meanwhile."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


def _recount(links: Iterable[Link], wanted: dict[tuple[str, str], tuple[Any, ...]]) -> Anchor:
    end = Anchor(0, ZERO)
    for place, (seq, kind, ref, head) in enumerate(links, start=1):
        fields = wanted.pop((kind, ref), None)
        if seq != place or fields is None or next_head(end.head, seq, kind, fields) != head:
            raise LedgerBrokenError(
                f"ledger: link {place} ({kind} {ref}) does not follow from the rows before it; a row was changed, "
                "removed or put in"
            )
        end = Anchor(seq, head)
    if wanted:
        kind, ref = next(iter(wanted))
        raise LedgerBrokenError(f"ledger: {kind} {ref} has no link in the chain; the chain was cut or a row put in")
    return end


def notes(connection: sqlite3.Connection) -> list[tuple[str, dict[str, Any]]]:
    """All notes, oldest first: (time, note)."""
    rows = connection.execute("SELECT created, text FROM notes ORDER BY id").fetchall()
    return [(created, json.loads(text)) for created, text in rows]


def noted(connection: sqlite3.Connection, kind: object) -> dict[str, Any] | None:
    """The last note whose `what` is `kind`."""
    found = (json.loads(text) for (text,) in connection.execute("SELECT text FROM notes ORDER BY id DESC"))
    return next((dict(note) for note in found if note.get("what") == kind), None)


def note(connection: sqlite3.Connection, what: dict[str, Any], when: str) -> None:
    """Write a note with its link, unless the last one of its kind says the same."""
    if noted(connection, what.get("what")) == what:
        return
    text = json.dumps(what, sort_keys=True, allow_nan=False)
    number = connection.execute("INSERT INTO notes (text, created) VALUES (?, ?)", (text, when)).lastrowid
    append(connection, "note", str(number), (number, text))


def rebuild(connection: sqlite3.Connection) -> None:
    """Chain the rows of a ledger that had no chain, in the order of its tables (migration)."""
    for (kind, ref), fields in _tables(connection).items():
        append(connection, kind, ref, fields)


def verify_export(data: Mapping[str, Any]) -> Anchor:
    """Recount the chain of `Ledger.export()`, for an auditor who has nothing else.

    Raises
    ------
    LedgerBrokenError
        As `verify`; also when a readable field differs from the text that was hashed.
    """
    try:
        wanted: dict[tuple[str, str], tuple[Any, ...]] = {("created", ""): (data["participant"], data["salt"])}
        for run in data["runs"]:
            hashed = tuple(run["chained"])
            if [run["run_id"], run["dataset"], run["unit"], run["contract_sha256"]] != list(hashed[:4]) or {
                key: value for key, value in run.items() if key not in {"chained", "opened"}
            } != json.loads(hashed[4]):
                raise LedgerBrokenError(f"export: run {run['run_id']} differs from what was hashed")
            wanted["run", run["run_id"]] = hashed
        for entry in data["entries"]:
            events = json.dumps(entry["events"], sort_keys=True, allow_nan=False)
            wanted["reserved", str(entry["seq"])] = (
                *(entry[name] for name in ("seq", "run_id", "dataset", "round", "key")),
                events,
                *([entry["claims"]] if "claims" in entry else []),
            )
            if entry["state"] == "committed":
                wanted["committed", str(entry["seq"])] = (entry["seq"], entry["reply_sha256"])
        for note in data["notes"]:
            text = json.dumps(note["note"], sort_keys=True, allow_nan=False)
            wanted["note", str(note["id"])] = (note["id"], text)
        links = [(link["seq"], link["kind"], link["ref"], link["head"]) for link in data["chain"]]
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerBrokenError(f"export: wanted the keys of a ledger's export, got {type(error).__name__}") from None
    return _recount(links, wanted)
