"""The ledger on disk: one SQLite file, its schema, and durable transactions.

Write-ahead logging with ``synchronous = FULL`` syncs the log in every commit, one sync each (a rollback journal
would leave the deletion of the journal, which is the commit, to chance). The file must be on the participant's
own disk, for the log's index is shared memory. Entries can be added and committed, never deleted or rewritten, and
every change is a link of the hash chain (`privacy/_chain.py`), recounted whenever the file is opened.
"""

import os
import re
import secrets
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privacy import _chain
from privacy.errors import (
    LedgerBrokenError,
    LedgerBusyError,
    LedgerDiskError,
    LedgerMissingError,
    LedgerSchemaError,
)
from privacy.failpoints import failpoint

#: What a new ledger has. One of schema 2 opens too, as it is: it has no claims, and takes none before it is migrated.
LEDGER_SCHEMA = 3
BUSY_SECONDS = 30.0
#: Bytes of disk without which nothing is charged, beside those of a reply.
_LEAST_ROOM = 2**18

_CHAIN = """
CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL, created TEXT NOT NULL) STRICT;
CREATE TABLE chain (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, ref TEXT NOT NULL, head TEXT NOT NULL, UNIQUE (kind, ref)
) STRICT;
CREATE TRIGGER notes_stay BEFORE DELETE ON notes BEGIN SELECT RAISE(ABORT, 'a note is never deleted'); END;
CREATE TRIGGER notes_keep BEFORE UPDATE ON notes BEGIN SELECT RAISE(ABORT, 'a note is never rewritten'); END;
CREATE TRIGGER chain_stays BEFORE DELETE ON chain BEGIN SELECT RAISE(ABORT, 'a link is never deleted'); END;
CREATE TRIGGER chain_keeps BEFORE UPDATE ON chain BEGIN SELECT RAISE(ABORT, 'a link is never rewritten'); END;
"""
_CLAIMS = """
CREATE TABLE cohorts (
    entry INTEGER PRIMARY KEY REFERENCES entries, claims TEXT NOT NULL, blind BLOB NOT NULL CHECK (LENGTH(blind) = 32)
) STRICT;
CREATE TABLE claims (
    dataset TEXT NOT NULL, mark BLOB NOT NULL CHECK (LENGTH(mark) = 32), run_id TEXT NOT NULL REFERENCES runs,
    entry INTEGER NOT NULL REFERENCES cohorts, PRIMARY KEY (dataset, mark)
) STRICT, WITHOUT ROWID;
CREATE INDEX claims_of_run ON claims (run_id);
CREATE TRIGGER cohorts_stay BEFORE DELETE ON cohorts BEGIN SELECT RAISE(ABORT, 'a cohort is never deleted'); END;
CREATE TRIGGER cohorts_keep BEFORE UPDATE ON cohorts BEGIN SELECT RAISE(ABORT, 'a cohort is never rewritten'); END;
CREATE TRIGGER claims_stay BEFORE DELETE ON claims BEGIN SELECT RAISE(ABORT, 'a claim is never deleted'); END;
CREATE TRIGGER claims_keep BEFORE UPDATE ON claims BEGIN SELECT RAISE(ABORT, 'a claim is never rewritten'); END;
"""
#: In memory, beside a file of schema 2: what is asked of claims then finds none.
_NO_CLAIMS = """
CREATE TEMP TABLE cohorts (entry INTEGER PRIMARY KEY, claims TEXT NOT NULL, blind BLOB);
CREATE TEMP TABLE claims (dataset TEXT, mark BLOB, run_id TEXT, entry INTEGER);
"""
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY, dataset TEXT NOT NULL, unit TEXT NOT NULL, contract_sha256 TEXT NOT NULL,
    plan TEXT NOT NULL, bounds TEXT NOT NULL, created TEXT NOT NULL
) STRICT;
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL REFERENCES runs, dataset TEXT NOT NULL,
    round INTEGER NOT NULL, key TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('reserved', 'committed')),
    events TEXT NOT NULL, reply_sha256 TEXT, created TEXT NOT NULL,
    CHECK ((state = 'committed') = (reply_sha256 IS NOT NULL))
) STRICT;
CREATE INDEX entries_of_run ON entries (run_id, round);
CREATE INDEX entries_of_dataset ON entries (dataset);
CREATE TABLE outbox (
    run_id TEXT NOT NULL, round INTEGER NOT NULL, key TEXT NOT NULL, entry INTEGER NOT NULL UNIQUE REFERENCES entries,
    reply BLOB NOT NULL, PRIMARY KEY (run_id, round, key)
) STRICT;
CREATE TRIGGER runs_stay BEFORE DELETE ON runs BEGIN SELECT RAISE(ABORT, 'a run is never deleted'); END;
CREATE TRIGGER runs_keep BEFORE UPDATE ON runs BEGIN SELECT RAISE(ABORT, 'a plan is never rewritten'); END;
CREATE TRIGGER entries_stay BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'an entry is never deleted'); END;
CREATE TRIGGER entries_keep BEFORE UPDATE ON entries
WHEN OLD.state != 'reserved' OR NEW.state != 'committed' OR NEW.seq != OLD.seq OR NEW.run_id != OLD.run_id
    OR NEW.dataset != OLD.dataset OR NEW.round != OLD.round OR NEW.key != OLD.key OR NEW.events != OLD.events
BEGIN SELECT RAISE(ABORT, 'an entry is only ever committed'); END;
CREATE TRIGGER outbox_keep BEFORE UPDATE ON outbox BEGIN SELECT RAISE(ABORT, 'a reply is never rewritten'); END;
"""


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: SQLite must never make a missing ledger, for an empty one would have spent nothing.
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=BUSY_SECONDS,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def create_file(path: Path, participant: str) -> None:
    """Make the ledger file: complete under its name, or not at all (mode 0600, folder synced)."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        failpoint("create.file")
        connection = _connect(draft)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN; {_SCHEMA} {_CHAIN} {_CLAIMS} COMMIT;")
            # Complete or not at all is the link's work below: nobody reads the draft.
            rows = {"schema": str(LEDGER_SCHEMA), "participant": participant, "salt": secrets.token_hex(32)}
            connection.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
            _chain.append(connection, "created", "", _chain.created(rows))
        finally:
            connection.close()
        failpoint("create.schema")
        # A link, unlike a rename, never replaces a ledger that another process made meanwhile.
        os.link(draft, path)
        failpoint("create.linked")
    except FileExistsError:
        raise LedgerSchemaError(f"ledger: wanted no file at {path}, got one; a ledger is never replaced") from None
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    failpoint("create.synced")


def _not_a_ledger(path: Path, error: Exception) -> LedgerSchemaError:
    return LedgerSchemaError(
        f"ledger: wanted a ledger of schema {LEDGER_SCHEMA}, got another kind of file at {path}: {error}"
    )


def open_file(path: Path, participant: str) -> sqlite3.Connection:
    """Open an existing ledger of `participant`, refusing every other file."""
    if not path.is_file():
        raise LedgerMissingError(
            f"ledger: none at {path}; without it nothing is released. Only `consortia budget init` makes one"
        )
    try:
        connection = _connect(path)
    except sqlite3.Error as error:
        raise _not_a_ledger(path, error) from error
    try:
        meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
        if meta.get("schema") not in {"2", str(LEDGER_SCHEMA)}:
            what = (
                "run `consortia budget migrate`, which keeps every row"
                if meta.get("schema") == "1"
                else f"use the version that wrote {path}"
            )
            raise LedgerSchemaError(f"ledger schema: wanted {LEDGER_SCHEMA}, got {meta.get('schema')}; {what}")
        if meta.get("participant") != participant:
            raise LedgerSchemaError(
                f"ledger participant: wanted {participant!r}, got {meta.get('participant')!r} in {path}"
            )
        if meta["schema"] == "2":
            connection.executescript(f"PRAGMA temp_store = MEMORY; {_NO_CLAIMS}")
        _chain.verify(connection)
    except sqlite3.Error as error:
        connection.close()
        raise _of_the_disk(error) or _not_a_ledger(path, error) from error
    except (LedgerSchemaError, LedgerBrokenError):
        connection.close()
        raise
    return connection


def stands_in(connection: sqlite3.Connection) -> bool:
    """Whether empty tables in memory hide the file's claims: it was of schema 2 when this connection opened it."""
    return connection.execute("SELECT 1 FROM temp.sqlite_master WHERE name = 'claims'").fetchone() is not None


def see_claims(connection: sqlite3.Connection) -> bool:
    """Drop the tables in memory once another process has migrated the file; return whether that was done.

    Claims that were written to them would end with the process, and the ledger would never open again.
    """
    (schema,) = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    if schema != str(LEDGER_SCHEMA) or connection.in_transaction:
        return False
    connection.executescript("DROP TABLE temp.claims; DROP TABLE temp.cohorts;")
    return True


def migrate_file(path: Path, participant: str) -> None:
    """Give a ledger of schema 1 its chain, and one of schema 1 or 2 its table of claims, which is empty.

    One transaction; nothing else changes. What was charged before has no claims, so it counts for every unit.

    Raises
    ------
    LedgerSchemaError
        The file is no ledger of `participant` with schema 1 or 2.
    LedgerBrokenError
        Its rows and its chain do not agree.
    """
    if not path.is_file():
        raise LedgerMissingError(f"ledger: none at {path}")
    connection = _connect(path)
    try:
        connection.execute("BEGIN IMMEDIATE")
        meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
        schema = meta.get("schema")
        if schema not in {"1", "2"} or meta.get("participant") != participant:
            raise LedgerSchemaError(
                f"ledger: wanted one of {participant!r} with schema 1 or 2 at {path}, got {meta.get('participant')!r} "
                f"with schema {schema}; there is nothing to migrate"
            )
        for statement in _statements((_CHAIN if schema == "1" else "") + _CLAIMS):
            connection.execute(statement)
        if schema == "1":
            connection.execute("ALTER TABLE runs ADD COLUMN bounds TEXT NOT NULL DEFAULT '{}'")
            connection.execute("INSERT INTO meta VALUES ('salt', ?)", (secrets.token_hex(32),))
            _chain.rebuild(connection)
        _chain.verify(connection)
        connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (str(LEDGER_SCHEMA),))
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise _not_a_ledger(path, error) from error
    finally:
        connection.close()


def _statements(script: str) -> list[str]:
    """The statements of a script one by one: `executescript` would commit."""
    return [one for one in re.split(r";\n(?=CREATE|$)", script.replace("\n\n", "\n").strip() + "\n") if one.strip()]


def _of_the_disk(error: sqlite3.Error) -> LedgerBusyError | LedgerDiskError | None:
    """Return the named refusal for an error of the file or its disk; None for any other."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF  # the higher bits only refine this code
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return LedgerBusyError(f"ledger: another process held it for {BUSY_SECONDS:g} s; try again")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return LedgerDiskError(
            f"ledger: its disk failed or is full ({error.sqlite_errorname}); make room and try again"
        )
    return None


def check_room(connection: sqlite3.Connection, folder: Path, run_id: str) -> None:
    """Refuse, with LedgerDiskError, where the disk has no room for a reservation and its commit.

    A reply, as large as the largest of this run, goes into the log and later into the file.
    """
    query = "SELECT MAX(LENGTH(reply)) FROM outbox WHERE run_id = ?"
    (largest,) = connection.execute(query, (run_id,)).fetchone()
    size = _LEAST_ROOM + 2 * (largest or 0)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise LedgerDiskError(
            f"ledger: wanted room for {size} bytes beside it before anything is charged, got {error.strerror}"
        ) from error


@contextmanager
def transaction(connection: sqlite3.Connection, name: str) -> Iterator[None]:
    """Hold the ledger's one write lock; durable when it ends, undone when it raises."""
    failpoint(f"{name}.before")
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        raise _of_the_disk(error) or error from error
    try:
        failpoint(f"{name}.begun")
        yield
        failpoint(f"{name}.written")
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.Error) and (named := _of_the_disk(error)) is not None:
            raise named from error
        raise
    failpoint(f"{name}.committed")
