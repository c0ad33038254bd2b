"""Run keys, attempts and views of secure sums, in the database of the participant's ledger.

Every message may be a new process, so nothing of this may live in memory. Each write is durable when its method
returns. The run key is overwritten (SQLite's ``secure_delete``) when the run ends.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privacy._ledger_sql import BUSY_SECONDS

__all__ = ["KeyStore", "RunKeys"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS secure_runs (
    run_id TEXT PRIMARY KEY, contract TEXT NOT NULL, private BLOB NOT NULL, roster TEXT, pairs TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS secure_attempts (
    run_id TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, context TEXT NOT NULL,
    PRIMARY KEY (run_id, round, attempt)
) STRICT;
CREATE TABLE IF NOT EXISTS secure_views (
    run_id TEXT NOT NULL, round INTEGER NOT NULL, kind TEXT NOT NULL, view TEXT NOT NULL,
    PRIMARY KEY (run_id, round, kind)
) STRICT;
CREATE TRIGGER IF NOT EXISTS secure_views_stay BEFORE DELETE ON secure_views
BEGIN SELECT RAISE(ABORT, 'a view is never forgotten'); END;
CREATE TRIGGER IF NOT EXISTS secure_views_keep BEFORE UPDATE ON secure_views
BEGIN SELECT RAISE(ABORT, 'a view is never rewritten'); END;
CREATE TRIGGER IF NOT EXISTS secure_attempts_stay BEFORE DELETE ON secure_attempts
BEGIN SELECT RAISE(ABORT, 'an attempt is never forgotten'); END;
CREATE TRIGGER IF NOT EXISTS secure_attempts_keep BEFORE UPDATE ON secure_attempts
BEGIN SELECT RAISE(ABORT, 'an attempt is never rewritten'); END;
"""


@dataclass(frozen=True)
class RunKeys:
    """One member's secrets of one run.

    Attributes
    ----------
    private : X25519 private key, raw.
    roster : hash of the members' keys that the run is bound to, hex; empty before the first round.
    pairs : secret with each peer, by name.
    """

    contract: str
    private: bytes
    roster: str
    pairs: Mapping[str, bytes]


class KeyStore:
    """Tables beside the ledger's own, over a connection of their own.

    Parameters
    ----------
    connection : to a database in autocommit mode.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute("PRAGMA secure_delete = ON")
        connection.executescript(_SCHEMA)

    @classmethod
    def open(cls, ledger: Path) -> "KeyStore":
        """Open the store in an existing ledger file."""
        connection = sqlite3.connect(
            f"{ledger.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=BUSY_SECONDS
        )
        connection.execute("PRAGMA synchronous = FULL")
        return cls(connection)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def run(self, run_id: str) -> RunKeys | None:
        """Return the secrets of a run, None before it begins and after it ended."""
        query = "SELECT contract, private, roster, pairs FROM secure_runs WHERE run_id = ?"
        row = self._connection.execute(query, (run_id,)).fetchone()
        if row is None:
            return None
        pairs = {name: bytes.fromhex(key) for name, key in json.loads(row[3] or "{}").items()}
        return RunKeys(row[0], bytes(row[1]), row[2] or "", pairs)

    def begin(self, run_id: str, contract: str, private: bytes) -> None:
        """Store the key of a new run."""
        query = "INSERT INTO secure_runs (run_id, contract, private) VALUES (?, ?, ?)"
        self._connection.execute(query, (run_id, contract, private))

    def bind(self, run_id: str, roster: str, pairs: Mapping[str, bytes]) -> None:
        """Store the roster that the run is bound to, once."""
        text = json.dumps({name: key.hex() for name, key in pairs.items()})
        query = "UPDATE secure_runs SET roster = ?, pairs = ? WHERE run_id = ? AND roster IS NULL"
        self._connection.execute(query, (roster, text, run_id))

    def last(self, run_id: str) -> tuple[int, int]:
        """Return (round, attempt) of the last attempt, (0, -1) before the first."""
        query = "SELECT round, attempt FROM secure_attempts WHERE run_id = ? ORDER BY round DESC, attempt DESC LIMIT 1"
        row = self._connection.execute(query, (run_id,)).fetchone()
        return (0, -1) if row is None else (int(row[0]), int(row[1]))

    def burn(self, run_id: str, round: int, attempt: int, context: str) -> None:
        """Use up an attempt before anything is computed: a crash loses the attempt, never the mask's secrecy."""
        query = "INSERT INTO secure_attempts VALUES (?, ?, ?, ?)"
        self._connection.execute(query, (run_id, round, attempt, context))

    def view(self, run_id: str, round: int, kind: str) -> str | None:
        """Return what this member voted for, or opened, in a round; None before it did."""
        query = "SELECT view FROM secure_views WHERE run_id = ? AND round = ? AND kind = ?"
        row = self._connection.execute(query, (run_id, round, kind)).fetchone()
        return None if row is None else str(row[0])

    def settle_view(self, run_id: str, round: int, kind: str, view: str) -> bool:
        """Store a round's first view of that kind; return whether `view` is the one that stands."""
        query = "INSERT OR IGNORE INTO secure_views VALUES (?, ?, ?, ?)"
        self._connection.execute(query, (run_id, round, kind, view))
        return self.view(run_id, round, kind) == view

    def end_all(self) -> None:
        """Forget the secrets of every run, with the same traces left as by `end`."""
        self._connection.execute("DELETE FROM secure_runs")

    def end(self, run_id: str) -> None:
        """Forget the run's secrets; its attempts stay, so that no key is ever made for it again."""
        self._connection.execute("DELETE FROM secure_runs WHERE run_id = ?", (run_id,))
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
