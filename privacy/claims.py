"""Claims: which units a growing run has used, so that each of them pays once (parallel composition).

Formal guarantees
-----------------
* *Once.* A unit of a data set is claimed by one run, for good: (data set, mark) is a primary key, triggers forbid
  deletion and rewriting. A reservation that names a unit of another run is refused whole.
* *Charged with.* Claims are written in the transaction of the reservation. A process that dies leaves both or neither,
  and a reservation that is abandoned keeps its claims.
* *A run's cohort* is what its first reservation claimed. Its later reservations name units of the cohort and no others;
  a run that began with claims never reserves without them, nor the other way round.
* *In the chain.* The link of a reservation with claims holds the SHA-256 of the cohort's sorted marks and 32 random
  bytes that stay at home, and opening a ledger recounts it. So an edited table does not open, and the hash, which an
  export shows, tells nobody that a cohort is empty.
* *One key, one line.* The first claim of a data set notes a fingerprint of the marks' key and the run that began it.
  Another key would recognise nobody, and another beginning would be another line of releases: both are refused.

**Why a unit of cohort k pays for cohort k alone.** Releases of other cohorts do not hold it, and depend on it through
what was released alone: whether another unit is used, and in which cohort, goes by that unit's own mark and arrival. So
its loss is that of every event without claims, which counts for all units whenever they came, and of the events of its
own cohort. A lifetime is held for each cohort: `worlds` names what each kind of unit is charged for. Data sets that
share a lifetime add up over all cohorts, for their marks cannot be compared. What the argument asks of marks (a whole
keyed hash of the unit, no content of rows) and of arrivals is the caller's: `consortia.participant.cohort`.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from privacy import _chain, _lifetimes
from privacy._claim_links import digest
from privacy._ledger_sql import stands_in
from privacy.errors import BudgetExhaustedError, LedgerSchemaError, PlanError, ReleaseRefusedError
from privacy.events import Event, event_size, resized
from privacy.filters import LifetimeFilter
from privacy.plans import Budget, RunPlan

if TYPE_CHECKING:
    from privacy.ledger import Ledger

__all__ = ["MARK_BYTES", "SCHEMA", "Claims", "World", "begun", "claimed", "cohort", "schema", "taken_up", "worlds"]

#: All of a keyed hash. With fewer bytes two units could have one mark, and one would stay out because of the other.
MARK_BYTES: Final = 32
#: The first schema of ledgers that has them.
SCHEMA: Final = 3
#: What one kind of unit is charged for: the allowances of runs that took anything, and all their events.
World = tuple[list[Budget], list[Event]]


@dataclass(frozen=True)
class Claims:
    """The units that a reservation uses.

    Parameters
    ----------
    key : hex fingerprint of the key that the marks were made with.
    first : the run that began this line of releases.
    marks : a keyed hash of `MARK_BYTES` for each unit; none is a release of noise alone.
    """

    key: str
    first: str
    marks: frozenset[bytes]

    def __post_init__(self) -> None:
        if not self.key or not self.first:
            raise PlanError("key and first: wanted both, got an empty one; without them no unit is recognised")
        if any(not isinstance(mark, bytes) or len(mark) != MARK_BYTES for mark in self.marks):
            raise PlanError(f"marks: wanted {MARK_BYTES} bytes each, got others; a short mark can be another unit's")

    def note(self, dataset: str) -> dict[str, str]:
        """The note of the chain that the first claim of a data set makes."""
        return {"what": _what(dataset), "key": self.key, "first": self.first}


def _what(dataset: str) -> str:
    return f"claims of {dataset}"


def begun(ledger: Ledger, dataset: str) -> dict[str, str] | None:
    """The note of a data set's first claim: `key` and `first`; None where nothing was claimed."""
    with ledger._use() as connection:
        return _chain.noted(connection, _what(dataset))


def schema(ledger: Ledger) -> int:
    """The schema of a ledger's file."""
    with ledger._use() as connection:
        return _schema(connection)


def _schema(connection: sqlite3.Connection) -> int:
    (value,) = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
    return min(int(value), SCHEMA - 1) if stands_in(connection) else int(value)


def cohort(ledger: Ledger, run_id: str) -> frozenset[bytes] | None:
    """The marks that a run claimed; None when it reserved nothing with claims."""
    with ledger._use() as connection:
        return _cohort(connection, run_id)


def claimed(ledger: Ledger, dataset: str, marks: Iterable[bytes]) -> frozenset[bytes]:
    """Those of the marks that a run has claimed already."""
    query = "SELECT 1 FROM claims WHERE dataset = ? AND mark = ?"
    with ledger._use() as connection:
        return frozenset(m for m in marks if connection.execute(query, (dataset, m)).fetchone() is not None)


def _cohort(connection: sqlite3.Connection, run_id: str) -> frozenset[bytes] | None:
    query = "SELECT 1 FROM cohorts JOIN entries ON seq = cohorts.entry WHERE run_id = ?"
    if connection.execute(query, (run_id,)).fetchone() is None:
        return None
    return frozenset(mark for (mark,) in connection.execute("SELECT mark FROM claims WHERE run_id = ?", (run_id,)))


def check(connection: sqlite3.Connection, plan: RunPlan, claims: Claims | None) -> None:
    """Refuse a reservation whose claims do not fit the run's and the data set's; nothing is written.

    Raises
    ------
    LedgerSchemaError
        The file is of a schema without claims.
    ReleaseRefusedError
        A unit of another run or none of the run's cohort, another key or line, or a run that mixes both kinds.
    """
    query = (
        "SELECT COUNT(*), COUNT(cohorts.entry) FROM entries LEFT JOIN cohorts ON cohorts.entry = seq WHERE run_id = ?"
    )
    made, with_claims = connection.execute(query, (plan.run_id,)).fetchone()
    if made and (claims is None) != (with_claims == 0):
        raise ReleaseRefusedError(
            f"run {plan.run_id!r}: wanted reservations that all claim their units or none, got both kinds"
        )
    if claims is None:
        return
    if (found := _schema(connection)) < SCHEMA:
        raise LedgerSchemaError(
            f"ledger schema: wanted {SCHEMA}, which has claims, got {found}; run `consortia budget migrate`, which "
            "keeps every row"
        )
    known = _chain.noted(connection, _what(plan.dataset))
    for name, wanted in claims.note(plan.dataset).items():
        if known is not None and known[name] != wanted:
            raise ReleaseRefusedError(
                f"data set {plan.dataset!r}: wanted claims of the {'key' if name == 'key' else 'line'} that its first "
                f"release noted ({known[name]}), got another; its units would not be recognised"
            )
    if with_claims:
        strange = claims.marks - (_cohort(connection, plan.run_id) or frozenset())
    else:
        query = "SELECT 1 FROM claims WHERE dataset = ? AND mark = ?"
        taken = (m for m in claims.marks if connection.execute(query, (plan.dataset, m)).fetchone() is not None)
        strange = frozenset(taken)
    if strange:
        raise ReleaseRefusedError(
            f"run {plan.run_id!r}: wanted units of its own cohort, got some that are not; nothing was charged"
        )


def write_note(connection: sqlite3.Connection, plan: RunPlan, claims: Claims | None, when: str) -> None:
    """Note key and line with the first claim of a data set, before the link of its reservation."""
    if claims is not None:
        _chain.note(connection, claims.note(plan.dataset), when)


def write(connection: sqlite3.Connection, plan: RunPlan, entry: int, claims: Claims | None) -> tuple[str, ...]:
    """Write the claims of a reservation in its transaction; return what its link holds beside its own fields."""
    if claims is None:
        return ()
    known = _cohort(connection, plan.run_id)
    marks = claims.marks if known is None else known
    query = "SELECT blind FROM cohorts JOIN entries ON seq = cohorts.entry WHERE run_id = ? LIMIT 1"
    blind = secrets.token_bytes(32) if known is None else connection.execute(query, (plan.run_id,)).fetchone()[0]
    told = digest(blind, marks)
    connection.execute("INSERT INTO cohorts (entry, claims, blind) VALUES (?, ?, ?)", (entry, told, blind))
    if known is None:
        rows = ((plan.dataset, mark, plan.run_id, entry) for mark in sorted(marks))
        connection.executemany("INSERT INTO claims (dataset, mark, run_id, entry) VALUES (?, ?, ?, ?)", rows)
    return (told,)


def worlds(
    connection: sqlite3.Connection, dataset: str, *, run_id: str | None = None, claims: bool = False
) -> list[World]:
    """What each kind of unit is charged for in the lifetime of `dataset`, besides the allowance of `run_id`.

    Parameters
    ----------
    run_id : the run that asks; its events are in, its allowance is not.
    claims : whether it claims its units: then its own cohort is the only kind of unit that it can cost anything.
    """
    group = _lifetimes.sharing(connection, dataset)
    places = ", ".join("?" * len(group))
    query = (
        "SELECT events, COUNT(*), CASE WHEN cohorts.entry IS NULL THEN '' ELSE run_id END AS cohort "  # noqa: S608
        f"FROM entries LEFT JOIN cohorts ON cohorts.entry = seq WHERE dataset IN ({places}) GROUP BY events, cohort"
    )
    events: dict[str, list[Event]] = {"": []}
    for text, times, name in connection.execute(query, group):
        counted = [resized(event, event_size(event) * times) for event in _lifetimes.read_events(text)]
        events.setdefault(name, []).extend(counted)
    query = (
        "SELECT plan, run_id, MAX(cohorts.entry IS NOT NULL) FROM runs JOIN entries USING (run_id) "  # noqa: S608
        f"LEFT JOIN cohorts ON cohorts.entry = seq WHERE entries.dataset IN ({places}) GROUP BY run_id ORDER BY run_id"
    )
    budgets: dict[str, list[Budget]] = {"": []}
    for text, run, of_cohort in connection.execute(query, group):
        if run != run_id:
            budgets.setdefault(run if of_cohort else "", []).append(_lifetimes.read_plan(text).allowance)
    if len(group) > 1:
        return [([b for each in budgets.values() for b in each], [e for each in events.values() for e in each])]
    kinds = [run_id or ""] if claims else list(events)
    found = {}
    for kind in kinds:
        world = (list(budgets[""]), list(events[""]))
        if kind:
            world[0].extend(budgets.get(kind, []))
            world[1].extend(events.get(kind, []))
        found[tuple(world[0]), tuple(world[1])] = world  # cohorts that cost the same are one kind of unit
    return list(found.values())


def check_lifetime(
    connection: sqlite3.Connection, plan: RunPlan, events: Sequence[Event], lifetime: Budget, *, claims: bool
) -> None:
    """Raise BudgetExhaustedError when the lifetime of any kind of unit does not allow these events."""
    rule = LifetimeFilter(lifetime)
    for allowances, taken in worlds(connection, plan.dataset, run_id=plan.run_id, claims=claims):
        if not rule.allows([*allowances, plan.allowance], [*taken, *events]):
            raise BudgetExhaustedError(
                f"data set {plan.dataset!r}: its lifetime budget (epsilon {lifetime.epsilon:g}, delta "
                f"{lifetime.delta:g}) does not allow another release of run {plan.run_id!r}; receive only"
            )


def left(connection: sqlite3.Connection, dataset: str, lifetime: Budget, *, claims: bool) -> Budget:
    """What a new run may get for certain (rule A): the least over all kinds of units that it would cost."""
    found = [LifetimeFilter(lifetime).left(allowances) for allowances, _ in worlds(connection, dataset, claims=claims)]
    return Budget(min(one.epsilon for one in found), min(one.delta for one in found))


def taken_up(ledger: Ledger, dataset: str) -> int:
    """How many units of a data set are claimed. It stays at home."""
    with ledger._use() as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM claims WHERE dataset = ?", (dataset,)).fetchone()
    return int(count)
