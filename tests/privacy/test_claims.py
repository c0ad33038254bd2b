"""Claims of units: each pays once, they are written with the charge, and an edited table does not open."""

import hashlib
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from privacy import _ledger_sql
from privacy import claims as claims_module
from privacy._chain import verify_export
from privacy._ledger_sql import migrate_file
from privacy.accounting import solve_noise_multiplier
from privacy.claims import Claims, begun, claimed, cohort, taken_up
from privacy.errors import BudgetExhaustedError, LedgerBrokenError, LedgerSchemaError, PlanError, ReleaseRefusedError
from privacy.events import GaussianRelease
from privacy.failpoints import listening
from privacy.ledger import Budget, Ledger, RunPlan

LIFETIME = Budget(2.0, 2e-5)


@pytest.fixture
def ledger(ledger_path: Path) -> Iterator[Ledger]:
    with Ledger.open(ledger_path, "hospital-a") as opened:
        yield opened


def units(*numbers: int) -> frozenset[bytes]:
    return frozenset(number.to_bytes(32, "big") for number in numbers)


def of(*numbers: int, key: str = "k1", first: str = "1") -> Claims:
    return Claims(key, first, units(*numbers))


@pytest.fixture(scope="module")
def make_plan() -> Any:
    """Plans of two releases that together cost (1, 1e-5), by the name of the run; solved once."""
    sigma = solve_noise_multiplier(epsilon=1.0, delta=1e-5, sampling_rate=1.0, steps=2)

    def make(run_id: str, noise_multiplier: float = sigma) -> RunPlan:
        event = GaussianRelease(noise_multiplier=noise_multiplier, partition="train", unit="patient_id")
        return RunPlan(
            run_id=run_id,
            dataset="heart",
            contract_sha256="c" * 64,
            unit="patient_id",
            declared_units=200,
            allowance=Budget(1.0, 1e-5),
            noise_multiplier=noise_multiplier,
            sampling_rate=1.0,
            steps_per_round=1,
            rounds=2,
            clip=1.0,
            non_private=False,
            other_events=(event,),
            listed=True,
        )

    return make


def release(ledger: Ledger, make_plan: Any, run: str, claims: Claims | None, rounds: int = 2, **changes: Any) -> None:
    """Spend an allowance of (1, 1e-5): all of it with 2 rounds."""
    plan = ledger.open_run(make_plan(run, **changes), LIFETIME)
    for number in range(1, rounds + 1):
        made = ledger.reserve(run, number, "k", plan.round_events(), lifetime=LIFETIME, claims=claims)
        ledger.commit(made, b"reply")


def test_months_of_cohorts_costs_each_unit_its_own(ledger: Ledger, make_plan: Any) -> None:
    release(ledger, make_plan, "1", of(1, 2))
    spent = ledger.spent("heart", 1e-5)
    lines = ledger.entries("1")
    for month in range(2, 7):
        release(ledger, make_plan, str(month), of(month * 10, month * 10 + 1))
        assert ledger.spent("heart", 1e-5) == spent
    assert ledger.entries("1") == lines  # an old unit's lines do not move
    assert taken_up(ledger, "heart") == 12
    assert ledger.lifetime_left("heart", LIFETIME, claims=True) == LIFETIME
    assert ledger.lifetime_left("heart", LIFETIME).epsilon == pytest.approx(1.0)  # a run over everybody
    release(ledger, make_plan, "all", None)
    with pytest.raises(BudgetExhaustedError, match="lifetime"):  # it counts for those who come later, too
        release(ledger, make_plan, "all again", None)
    release(ledger, make_plan, "7", of(999))
    assert ledger.spent("heart", 2e-5) > spent
    assert ledger.lifetime_left("heart", LIFETIME, claims=True).epsilon == pytest.approx(1.0)


def test_without_claims_the_lifetime_ends_after_two(ledger: Ledger, make_plan: Any) -> None:
    for run in ("1", "2"):
        release(ledger, make_plan, run, None)
    with pytest.raises(BudgetExhaustedError, match="lifetime"):
        release(ledger, make_plan, "3", None)
    with pytest.raises(BudgetExhaustedError, match="lifetime"):
        release(ledger, make_plan, "4", of(1))


def test_data_sets_of_one_lifetime_add_up_over_cohorts(ledger: Ledger, make_plan: Any) -> None:
    release(ledger, make_plan, "1", of(1))
    release(ledger, make_plan, "2", of(2))
    ledger.share("copy", "heart")  # the same person may have another mark there
    assert ledger.lifetime_left("copy", LIFETIME, claims=True).epsilon == 0
    with pytest.raises(BudgetExhaustedError, match="lifetime"):
        release(ledger, make_plan, "3", of(3))


@pytest.mark.parametrize(
    ("run", "claims", "wanted"),
    [
        ("2", of(2, 3), "units of its own cohort"),  # claimed by run 1
        ("1", of(1, 9), "units of its own cohort"),  # no unit of its cohort
        ("1", None, "all claim their units or none"),
        ("plain", of(7), "all claim their units or none"),
        ("2", of(7, key="k2"), "claims of the key"),
        ("2", of(7, first="2"), "claims of the line"),
    ],
)
def test_claims_that_do_not_fit_are_refused_whole(
    ledger: Ledger, make_plan: Any, run: str, claims: Claims | None, wanted: str
) -> None:
    release(ledger, make_plan, "1", of(1, 2), rounds=1)
    release(ledger, make_plan, "plain", None, rounds=1, noise_multiplier=50.0)
    plan = ledger.open_run(make_plan(run), LIFETIME)
    before = ledger.anchor()
    with pytest.raises(ReleaseRefusedError, match=wanted):
        ledger.reserve(run, 2, "k", plan.round_events(), lifetime=Budget(9.0, 9e-5), claims=claims)
    assert ledger.anchor() == before
    assert taken_up(ledger, "heart") == 2


def test_a_cohort_is_what_was_claimed_first(ledger: Ledger, make_plan: Any) -> None:
    release(ledger, make_plan, "1", of(1, 2), rounds=1)
    plan = ledger.open_run(make_plan("1"), LIFETIME)
    ledger.reserve("1", 2, "k", plan.round_events(), lifetime=LIFETIME, claims=of(1))  # one of them is gone meanwhile
    assert cohort(ledger, "1") == units(1, 2)
    assert (cohort(ledger, "2"), begun(ledger, "copy")) == (None, None)
    assert begun(ledger, "heart") == {"what": "claims of heart", "key": "k1", "first": "1"}
    assert claimed(ledger, "heart", units(1, 2, 3)) == units(1, 2)
    assert claimed(ledger, "copy", units(1, 2, 3)) == units()
    release(ledger, make_plan, "2", of(), rounds=1)  # nobody came: noise alone, charged to nobody
    assert cohort(ledger, "2") == units()
    hashes = [entry["claims"] for entry in ledger.export()["entries"]]
    assert hashes[0] == hashes[1] != hashes[2]
    assert verify_export(ledger.export()) == ledger.verify()


@pytest.mark.parametrize("marks", [{b"1234"}, {"x" * 32}, {bytes(31)}])
def test_a_short_mark_is_refused(marks: Any) -> None:
    with pytest.raises(PlanError, match="32 bytes"):
        Claims("k", "1", frozenset(marks))
    with pytest.raises(PlanError, match="key and first"):
        Claims("", "1", frozenset())


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM claims WHERE mark = (SELECT MIN(mark) FROM claims)",
        "DELETE FROM claims WHERE run_id = '2'",
        "UPDATE claims SET mark = zeroblob(32) WHERE mark = (SELECT MIN(mark) FROM claims)",
        "UPDATE claims SET run_id = '2' WHERE run_id = '1'",
        "UPDATE claims SET dataset = 'copy' WHERE run_id = '1'",
        "UPDATE claims SET entry = 2 WHERE run_id = '1'",
        "INSERT INTO claims SELECT 'heart', zeroblob(32), '1', 1",
        "INSERT INTO claims SELECT 'heart', zeroblob(32), '1', 77",
        "INSERT INTO claims SELECT 'copy', zeroblob(32), '1', 1",
        "UPDATE cohorts SET claims = 'f' WHERE entry = 2",
        "DELETE FROM cohorts WHERE entry = 1",
        "UPDATE cohorts SET blind = zeroblob(32)",
        "INSERT INTO cohorts SELECT 99, claims, blind FROM cohorts WHERE entry = 1",
        "UPDATE notes SET text = replace(text, 'k1', 'k2')",
    ],
)
def test_an_edited_table_does_not_open(ledger_path: Path, make_plan: Any, statement: str) -> None:
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        release(ledger, make_plan, "1", of(1, 2), rounds=2)
        release(ledger, make_plan, "2", of(3), rounds=1)
    connection = sqlite3.connect(ledger_path)
    with pytest.raises(sqlite3.IntegrityError, match="never"):
        connection.execute("DELETE FROM claims")
    with pytest.raises(sqlite3.IntegrityError, match="never"):
        connection.execute("UPDATE claims SET run_id = '9'")
    connection.rollback()
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")  # the triggers stop accidents, the chain shows intent
    assert connection.execute(statement).rowcount > 0
    connection.commit()
    connection.close()
    with pytest.raises(LedgerBrokenError):
        Ledger.open(ledger_path, "hospital-a")


def test_an_export_does_not_tell_that_a_cohort_is_empty(ledger: Ledger, make_plan: Any) -> None:
    """Whether anybody arrived depends on rows; nobody's hash has to be another each time."""
    for run in ("1", "2"):
        release(ledger, make_plan, run, of(), rounds=2)
    told = [entry["claims"] for entry in ledger.export()["entries"]]
    assert (told[0], told[2]) == (told[1], told[3])
    assert len({*told, hashlib.sha256(b"").hexdigest()}) == 3


def test_an_edited_export_is_found(ledger: Ledger, make_plan: Any) -> None:
    release(ledger, make_plan, "1", of(1, 2), rounds=1)
    data = ledger.export()
    assert not [mark for mark in units(1, 2) if mark.hex() in str(data)]  # marks stay at home
    data["entries"][0]["claims"] = "0" * 64
    with pytest.raises(LedgerBrokenError):
        verify_export(data)


def as_schema_2(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(
        "DROP TABLE claims; DROP TABLE cohorts; UPDATE meta SET value = '2' WHERE name = 'schema';"
    )
    connection.close()


@pytest.mark.parametrize("between", [False, True])
def test_a_handle_of_before_the_migration_writes_its_claims_to_the_file(
    ledger_path: Path, make_plan: Any, monkeypatch: pytest.MonkeyPatch, between: bool
) -> None:
    """The owner migrates while a participant runs. Claims in memory would end with it, and nothing would open."""
    as_schema_2(ledger_path)
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        migrate_file(ledger_path, "hospital-a")
        if between:  # it was migrated after the handle looked and before it held the write lock: refused once
            with monkeypatch.context() as patched:
                patched.setattr(_ledger_sql, "see_claims", lambda _: False)
                with pytest.raises(LedgerSchemaError, match="wanted 3"):
                    release(ledger, make_plan, "1", of(1, 2))
        release(ledger, make_plan, "2", of(1, 2))
        assert ledger.export()["schema"] == 3
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        assert cohort(ledger, "2") == units(1, 2)


def test_a_ledger_of_schema_2_goes_on_as_it_is_and_claims_after_migration(ledger_path: Path, make_plan: Any) -> None:
    as_schema_2(ledger_path)
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        release(ledger, make_plan, "old", None)
        plan = ledger.open_run(make_plan("1"), LIFETIME)
        with pytest.raises(LedgerSchemaError, match=r"wanted 3.*got 2.*budget migrate"):
            ledger.reserve("1", 1, "k", plan.round_events(), lifetime=LIFETIME, claims=of(1))
        before, spent, end = ledger.entries(), ledger.spent("heart", 1e-5), ledger.anchor()
        assert ledger.export()["schema"] == 2
        assert verify_export(ledger.export()) == end
    with pytest.raises(LedgerSchemaError, match="'bank-a'"):
        migrate_file(ledger_path, "bank-a")
    migrate_file(ledger_path, "hospital-a")
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        assert (ledger.entries(), ledger.spent("heart", 1e-5), ledger.anchor()) == (before, spent, end)
        assert ledger.export()["schema"] == 3
        release(ledger, make_plan, "1", of(1))
        release(ledger, make_plan, "2", of(2))  # the run of before counts for everybody, each cohort for its own
        with pytest.raises(BudgetExhaustedError, match="lifetime"):
            release(ledger, make_plan, "3", None)
    with pytest.raises(LedgerSchemaError, match="nothing to migrate"):
        migrate_file(ledger_path, "hospital-a")


def test_a_broken_ledger_is_not_migrated(ledger_path: Path, make_plan: Any) -> None:
    as_schema_2(ledger_path)
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        release(ledger, make_plan, "old", None, rounds=1)
    connection = sqlite3.connect(ledger_path)
    connection.executescript("DROP TRIGGER entries_stay; PRAGMA foreign_keys = OFF; DELETE FROM entries;")
    connection.close()
    copy = shutil.copyfile(ledger_path, ledger_path.with_name("copy.db"))
    with pytest.raises(LedgerBrokenError):
        migrate_file(copy, "hospital-a")
    assert sqlite3.connect(copy).execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() == ("2",)


class Stopped(Exception):
    """What a failpoint raises."""


@pytest.mark.parametrize("place", ["reserve.begun", "reserve.written", "reserve.committed", "commit.state"])
def test_charge_and_claims_are_written_together_or_not_at_all(ledger: Ledger, make_plan: Any, place: str) -> None:
    def stop(reached: str) -> None:
        if reached == place:
            raise Stopped

    with listening(stop), pytest.raises(Stopped):
        release(ledger, make_plan, "1", of(1, 2))
    charged = place in {"reserve.committed", "commit.state"}
    assert len(ledger.entries()) == charged
    assert claimed(ledger, "heart", units(1, 2)) == (units(1, 2) if charged else units())
    ledger.verify()
    if charged:  # an abandoned reservation keeps its claims
        with pytest.raises(ReleaseRefusedError, match="units of its own cohort"):
            release(ledger, make_plan, "2", of(2, 3))


def month_after_month(path: Path, make_plan: Any, started: int) -> None:
    """Release the units nobody has claimed, a few more each time, until killed."""
    with Ledger.open(path, "hospital-a") as ledger:
        while True:
            month = len(ledger.runs()) + 1
            there = units(*range(3 * month))
            new = there - claimed(ledger, "heart", there)
            release(ledger, make_plan, str(month), Claims("k1", "1", new), rounds=1, noise_multiplier=50.0)
            os.write(started, b"x")


def used_twice(path: Path) -> int:
    """How many units two charged releases of the same ledger used."""
    with Ledger.open(path, "hospital-a") as ledger:
        ledger.verify()
        cohorts = [cohort(ledger, run.run_id) or units() for run in ledger.runs()]
        every = [mark for each in cohorts for mark in each]
        assert len(every) == taken_up(ledger, "heart")
        for run in ledger.runs():  # what was charged has a cohort: none is forgotten
            if ledger.entries(run.run_id):
                assert cohort(ledger, run.run_id) is not None
    return len(every) - len(set(every))


@pytest.mark.parametrize("kills", [3, pytest.param(200, marks=pytest.mark.end_to_end)])
def test_random_kills_between_charge_and_release(kills: int, ledger_path: Path, make_plan: Any) -> None:
    delays = random.Random(7)
    for _ in range(kills):
        ready, started = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                month_after_month(ledger_path, make_plan, started)
            finally:
                os._exit(0)
        os.close(started)
        assert os.read(ready, 1) == b"x"
        time.sleep(delays.uniform(0.0, 0.004))
        os.kill(child, signal.SIGKILL)
        os.close(ready)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert used_twice(ledger_path) == 0


def test_a_claim_after_the_reservation_is_lost_in_a_crash(
    ledger: Ledger, make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken variant: marks are written by a step of their own. A crash between forgets that they were charged."""

    def stop(reached: str) -> None:
        if reached == "reserve.committed":
            raise Stopped

    monkeypatch.setattr(claims_module, "write", lambda *_: ())
    with listening(stop), pytest.raises(Stopped):
        release(ledger, make_plan, "1", of(1, 2), rounds=1)
    assert len(ledger.entries()) == 1
    assert claimed(ledger, "heart", units(1, 2)) == units()  # the next release would use them again, at no charge
