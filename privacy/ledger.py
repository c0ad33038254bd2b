"""A participant's durable record of what left, as events. Epsilon is derived from it.

Formal guarantees
-----------------
* *Check, charge, store, then release.* `reserve` checks and charges in one transaction; `commit` stores the
  reply's bytes and marks the entry in another; sending reads only from `reply`. So whatever dies in between,
  ledger = commits + abandoned reservations, and the ledger is never below what got out.
* A reservation without a commit stays spent. Attempts of a round are bounded.
* The same run, round and key gives the same bytes again, free of charge; another key is another release.
* Runs, threads and processes that reserve at once never exceed a budget together.
* A run keeps the plan it was opened with; a data set keeps its privacy unit for life, for budgets under
  different units cannot be composed.
* Data sets under one lifetime (`share`) stay so. Units that a reservation claims pay for its run (`privacy.claims`).
* Every change is a link of a hash chain (`privacy/_chain.py`). A reply carries the link of its reservation; a ledger
  that lacks it later is refused by `check_anchor`, one whose rows were edited does not open.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Self

from privacy import _chain, _ledger_sql, _lifetimes
from privacy import claims as _claims
from privacy._chain import Anchor
from privacy._export import export
from privacy._ledger_sql import LEDGER_SCHEMA, check_room, create_file, migrate_file, open_file, transaction
from privacy._lifetimes import read_plan as _plan
from privacy.accounting import epsilon
from privacy.claims import Claims
from privacy.errors import (
    BudgetExhaustedError,
    ContractMismatchError,
    LedgerBusyError,
    LedgerSchemaError,
    PlanError,
    ReleaseRefusedError,
    RetriesExhaustedError,
)
from privacy.events import Event, event_to_json
from privacy.failpoints import failpoint
from privacy.filters import plan_bounds, run_epsilon_bound, within
from privacy.plans import Budget, Entry, Reservation, RunPlan, plan_to_json

__all__ = ["LEDGER_SCHEMA", "Anchor", "Budget", "Entry", "Ledger", "Reservation", "RunPlan", "migrate_file"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Ledger:
    """One participant's ledger: use `Ledger.create` once, `Ledger.open` ever after.

    A handle may be shared by threads, not by processes: open the ledger again after a fork.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, participant: str) -> None:
        self.path = path
        self.participant = participant
        self._connection = connection
        self._pid = os.getpid()
        self._lock = RLock()
        self._counted: set[str] = set()
        self._before_claims = _ledger_sql.stands_in(connection)

    @classmethod
    def create(cls, path: Path | str, participant: str) -> Self:
        """Make the ledger of `participant`; LedgerSchemaError when `path` is taken."""
        if not participant:
            raise PlanError("participant: wanted a non-empty name, got ''")
        path = Path(path)
        if path.exists():
            raise LedgerSchemaError(f"ledger: wanted no file at {path}, got one; a ledger is never replaced")
        create_file(path, participant)
        return cls.open(path, participant)

    @classmethod
    def open(cls, path: Path | str, participant: str) -> Self:
        """Open the ledger of `participant`.

        Raises
        ------
        LedgerMissingError
            No file there: only `consortia budget init` makes one.
        LedgerSchemaError
            Another schema version (both are named), another participant's, or no ledger at all.
        LedgerBrokenError
            Its rows and its chain do not agree.
        """
        path = Path(path)
        return cls(open_file(path, participant), path, participant)

    def close(self) -> None:
        """Close the handle; what was committed is on disk already."""
        if os.getpid() == self._pid:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        if os.getpid() != self._pid:
            raise LedgerBusyError("ledger: this handle was made before a fork; open the ledger again in this process")
        with self._lock:
            if self._before_claims and _ledger_sql.see_claims(self._connection):
                self._before_claims = False
            yield self._connection

    # Runs

    def open_run(self, plan: RunPlan, lifetime: Budget) -> RunPlan:
        """Store `plan` unless the run is known; return the plan that was stored first.

        Raises
        ------
        ContractMismatchError
            The run is known under another contract or data set, or the data set under another unit.
        BudgetExhaustedError
            The run's allowance alone is larger than the lifetime of the data set.
        """
        with self._use():
            # Counted before the lock is taken, and kept with the plan: a later process need not count it again.
            bounds = plan_bounds(plan) if self._find_plan(plan.run_id) is None else {}
        with self._use() as connection, transaction(connection, "open_run"):
            known = self._find_plan(plan.run_id)
            if known is not None:
                for name in ("contract_sha256", "dataset"):
                    wanted, got = getattr(known, name), getattr(plan, name)
                    if wanted != got:
                        raise ContractMismatchError(f"run {plan.run_id!r}: opened with {name} {wanted!r}, got {got!r}")
                return known
            _lifetimes.check_unit(connection, plan.dataset, plan.unit)
            slack = 1 + 1e-9
            allowance = plan.allowance
            if allowance.epsilon > lifetime.epsilon * slack or (
                not plan.non_private and allowance.delta > lifetime.delta * slack
            ):
                raise BudgetExhaustedError(
                    f"run {plan.run_id!r}: wanted an allowance within the lifetime of {plan.dataset!r} "
                    f"(epsilon {lifetime.epsilon:g}, delta {lifetime.delta:g}), got epsilon {allowance.epsilon:g}, "
                    f"delta {allowance.delta:g}"
                )
            text = json.dumps(plan_to_json(plan), sort_keys=True, allow_nan=False)
            row = (plan.run_id, plan.dataset, plan.unit, plan.contract_sha256, text, json.dumps(bounds, sort_keys=True))
            connection.execute(
                "INSERT INTO runs (run_id, dataset, unit, contract_sha256, plan, bounds, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*row, _now()),
            )
            _chain.append(connection, "run", plan.run_id, row)
        return plan

    def _find_plan(self, run_id: str) -> RunPlan | None:
        row = self._connection.execute("SELECT plan FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return None if row is None else _plan(row[0])

    def plan(self, run_id: str) -> RunPlan | None:
        """Return the plan that `run_id` was opened with, or None."""
        with self._use():
            return self._find_plan(run_id)

    def runs(self, dataset: str | None = None) -> list[RunPlan]:
        """Plans of all runs (of `dataset`), in the order they were opened."""
        with self._use() as connection:
            query = "SELECT plan FROM runs WHERE ?1 IS NULL OR dataset = ?1 ORDER BY rowid"
            return [_plan(text) for (text,) in connection.execute(query, (dataset,))]

    def used(self) -> frozenset[str]:
        """Runs that took anything; a run that was opened only is not among them."""
        with self._use() as connection:
            return frozenset(run for (run,) in connection.execute("SELECT DISTINCT run_id FROM entries"))

    def share(self, dataset: str, other: str) -> None:
        """Put two data sets (and theirs) under one lifetime, for good: what any of them took counts for each of them.

        PlanError when these are not two, ContractMismatchError when they were counted by different units.
        """
        note = _lifetimes.link(dataset, other)
        with self._use() as connection, transaction(connection, "note"):
            if other not in _lifetimes.sharing(connection, dataset):
                _chain.note(connection, note, _now())
                _lifetimes.check_units(connection, dataset)

    def sharing(self, dataset: str, also: Sequence[tuple[str, str]] = ()) -> tuple[str, ...]:
        """The data sets (or accounts of one kind) that share this one's lifetime, itself too; `also`: links to come."""
        with self._use() as connection:
            return _lifetimes.sharing(connection, dataset, also)

    def datasets(self) -> frozenset[str]:
        """The accounts that something was taken from."""
        with self._use() as connection:
            return frozenset(name for (name,) in connection.execute("SELECT DISTINCT dataset FROM entries"))

    # Check and charge

    def reserve(
        self,
        run_id: str,
        round: int,
        key: str,
        events: Sequence[Event],
        *,
        lifetime: Budget,
        max_attempts_per_round: int = 3,
        claims: Claims | None = None,
    ) -> Reservation:
        """Check and charge one attempt of one round, before its noise is drawn.

        Parameters
        ----------
        key : hex SHA-256 of the incoming model, contract and round.
        events : everything the attempt may release.
        lifetime : the owner's budget for the data set.
        max_attempts_per_round : reservations of this run and round, whatever their keys.
        claims : the units that it uses, written with it; None counts for every unit of the data set.

        Raises
        ------
        BudgetExhaustedError, RetriesExhaustedError, LedgerDiskError
            The allowance, the lifetime, the attempts or the disk's room would be exceeded; nothing was written.
        ReleaseRefusedError
            Unknown run, events that its plan does not list, a key that was released already, or claims that do not fit.
        """
        if isinstance(round, bool) or not isinstance(round, int) or round < 0:
            raise PlanError(f"round: wanted a whole number >= 0, got {round!r}")
        if not key or not events:
            raise PlanError("key and events: wanted both, got an empty one; a release without an event is refused")
        text = json.dumps([event_to_json(event) for event in events], sort_keys=True, allow_nan=False)
        with self._use() as connection:
            # Counting can take a second: do it (into the accountant's cache) before holding everybody up. Spending
            # only ever grows, so a refusal here is final; an approval is checked again under the lock.
            # Once a run: then the count of its whole plan is in the cache.
            asked = (run_id, round, key, events, lifetime, max_attempts_per_round, claims)
            if run_id not in self._counted:
                self._check(*asked)
                self._counted.add(run_id)
            check_room(connection, self.path.parent, run_id)
            with transaction(connection, "reserve"):
                plan = self._check(*asked)
                _claims.write_note(connection, plan, claims, _now())
                cursor = connection.execute(
                    "INSERT INTO entries (run_id, dataset, round, key, state, events, created) "
                    "VALUES (?, ?, ?, ?, 'reserved', ?, ?)",
                    (run_id, plan.dataset, round, key, text, _now()),
                )
                entry = int(cursor.lastrowid or 0)  # sqlite always sets it after an insert
                told = _claims.write(connection, plan, entry, claims)
                fields = (entry, run_id, plan.dataset, round, key, text, *told)
                anchor = _chain.append(connection, "reserved", str(entry), fields)
        return Reservation(entry, run_id, round, key, anchor)

    def _check(
        self,
        run_id: str,
        round_: int,
        key: str,
        events: Sequence[Event],
        lifetime: Budget,
        attempts: int,
        claims: Claims | None,
    ) -> RunPlan:
        plan = self._find_plan(run_id)
        if plan is None:
            raise ReleaseRefusedError(f"run {run_id!r}: not opened in this ledger; call open_run first")
        for event in events:
            if event.unit != plan.unit:
                raise ReleaseRefusedError(f"unit: the run counts by {plan.unit!r}, got an event by {event.unit!r}")
        if self._find_reply(run_id, round_, key) is not None:
            raise ReleaseRefusedError(f"run {run_id!r}, round {round_}: already released for this key; send reply()")
        query = "SELECT COUNT(*) FROM entries WHERE run_id = ? AND round = ?"
        (made,) = self._connection.execute(query, (run_id, round_)).fetchone()
        if made >= attempts:
            raise RetriesExhaustedError(
                f"run {run_id!r}, round {round_}: wanted at most {attempts} attempts, all of them were made"
            )
        if not plan.non_private:
            (bounds,) = self._connection.execute("SELECT bounds FROM runs WHERE run_id = ?", (run_id,)).fetchone()
            taken = _lifetimes.taken(self._connection, run_id)
            bound = run_epsilon_bound(plan, [*taken, *events], json.loads(bounds))
            if not within(bound, plan):
                raise BudgetExhaustedError(
                    f"run {run_id!r}, round {round_}: would spend epsilon {bound:.4g} at delta "
                    f"{plan.allowance.delta:g}, the run's allowance is {plan.allowance.epsilon:g}; receive only"
                )
        _claims.check(self._connection, plan, claims)
        _claims.check_lifetime(self._connection, plan, events, lifetime, claims=claims is not None)
        return plan

    # Store, then release

    def commit(self, reservation: Reservation, reply: bytes) -> None:
        """Put `reply` into the outbox and mark its entry, in one transaction.

        Raises
        ------
        ReleaseRefusedError
            No such open reservation, or the key got its reply from another attempt meanwhile (then it stays spent).
        """
        where = (reservation.entry, reservation.run_id, reservation.round, reservation.key)
        with self._use() as connection, transaction(connection, "commit"):
            query = "SELECT state FROM entries WHERE seq = ? AND run_id = ? AND round = ? AND key = ?"
            row = connection.execute(query, where).fetchone()
            if row is None or row[0] != "reserved":
                state = "none" if row is None else row[0]
                raise ReleaseRefusedError(f"entry {reservation.entry}: wanted an open reservation, got {state}")
            if self._find_reply(*where[1:]) is not None:
                raise ReleaseRefusedError(
                    f"run {reservation.run_id!r}, round {reservation.round}: another attempt was released for this "
                    "key; send reply()"
                )
            digest = hashlib.sha256(reply).hexdigest()
            connection.execute(
                "UPDATE entries SET state = 'committed', reply_sha256 = ? WHERE seq = ?", (digest, reservation.entry)
            )
            _chain.append(connection, "committed", str(reservation.entry), (reservation.entry, digest))
            failpoint("commit.state")
            connection.execute(
                "INSERT INTO outbox (entry, run_id, round, key, reply) VALUES (?, ?, ?, ?, ?)", (*where, reply)
            )

    def _find_reply(self, run_id: str, round_: int, key: str) -> bytes | None:
        query = "SELECT reply FROM outbox WHERE run_id = ? AND round = ? AND key = ?"
        row = self._connection.execute(query, (run_id, round_, key)).fetchone()
        return None if row is None else bytes(row[0])

    def reply(self, run_id: str, round: int, key: str) -> bytes | None:
        """Return the committed reply, the only thing that is ever sent; None when there is none."""
        with self._use():
            return self._find_reply(run_id, round, key)

    # Reading

    def entries(self, run_id: str | None = None, dataset: str | None = None) -> list[Entry]:
        """All entries (of a run, of a data set), oldest first."""
        with self._use() as connection:
            return _lifetimes.entries(connection, run_id, dataset)

    def spent(self, dataset: str, delta: float) -> float:
        """PLD estimate of the lifetime's epsilon at `delta`, of the unit that paid most: for display only."""
        with self._use() as connection:
            return max(epsilon(events, delta) for _, events in _claims.worlds(connection, dataset))

    def lifetime_left(self, dataset: str, lifetime: Budget, *, claims: bool = False) -> Budget:
        """What a new run (with `claims`: of new units) may get for certain: the lifetime less allowances (rule A)."""
        with self._use() as connection:
            return _claims.left(connection, dataset, lifetime, claims=claims)

    # The chain

    def check_anchor(self, known: Anchor) -> None:
        """Refuse when this ledger does not hold a link that it once had (see `privacy._chain.check`)."""
        with self._use() as connection:
            _chain.check(connection, known)

    def anchor(self, run_id: str | None = None) -> Anchor:
        """The end of the chain, or the link of the run's latest reservation (the end when it has none)."""
        with self._use() as connection:
            found = None if run_id is None else _chain.of_run(connection, run_id)
            return found or _chain.latest(connection)

    def verify(self) -> Anchor:
        """Recount the whole chain from the rows; LedgerBrokenError when they do not agree."""
        with self._use() as connection:
            return _chain.verify(connection)

    def notes(self) -> list[tuple[str, dict[str, Any]]]:
        """What the owner decided, oldest first: (time, note). A note costs nothing."""
        with self._use() as connection:
            return _chain.notes(connection)

    def note(self, note: dict[str, Any]) -> None:
        """Add a note, unless the last one of its kind (`what`) says the same."""
        with self._use() as connection:
            if _chain.noted(connection, note.get("what")) != note:
                with transaction(connection, "note"):
                    _chain.note(connection, note, _now())

    def export(self) -> dict[str, Any]:
        """The whole ledger as JSON-able data, without the replies; its chain recounted (LedgerBrokenError)."""
        with self._use() as connection, _chain.snapshot(connection):
            _chain.verify(connection)
            return export(connection, self.participant)
