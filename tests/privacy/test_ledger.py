"""The ledger: idempotent, bounded, durable, and never below what got out."""

import json
import math
import os
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from privacy.accounting import epsilon
from privacy.errors import (
    BudgetExhaustedError,
    ContractMismatchError,
    LedgerBusyError,
    LedgerMissingError,
    LedgerSchemaError,
    PlanError,
    ReleaseRefusedError,
    RetriesExhaustedError,
)
from privacy.events import Event, GaussianRelease, NonPrivate, PoissonGaussian
from privacy.ledger import Budget, Ledger, Reservation, RunPlan

LIFETIME = Budget(4.0, 4e-5)


def take(ledger: Ledger, plan: RunPlan, round_: int, key: str = "k", **named: Any) -> Reservation:
    return ledger.reserve(plan.run_id, round_, key, [plan.round_event()], **{"lifetime": LIFETIME, **named})


@pytest.fixture
def ledger(ledger_path: Path) -> Any:
    with Ledger.open(ledger_path, "hospital-a") as opened:
        yield opened


def test_a_run_keeps_the_plan_it_was_opened_with(ledger: Ledger, make_plan: Any) -> None:
    first = make_plan()
    assert ledger.plan("run-1") is None
    assert ledger.open_run(first, LIFETIME) == first
    assert ledger.open_run(make_plan(noise_multiplier=99.0), LIFETIME) == first
    assert ledger.plan("run-1") == first
    assert ledger.runs("heart") == [first]


def test_another_contract_data_set_or_unit_is_refused(ledger: Ledger, make_plan: Any) -> None:
    ledger.open_run(make_plan(), LIFETIME)
    with pytest.raises(ContractMismatchError, match="contract_sha256"):
        ledger.open_run(make_plan(contract_sha256="d" * 64), LIFETIME)
    with pytest.raises(ContractMismatchError, match="dataset"):
        ledger.open_run(make_plan(dataset="lungs"), LIFETIME)
    # A run that was opened only has spent nothing; the first release fixes the unit for life.
    other = ledger.open_run(make_plan("run-2", unit="patient_id"), LIFETIME)
    take(ledger, other, 1)
    with pytest.raises(ContractMismatchError, match=r"'patient_id'.*'record'"):
        ledger.open_run(make_plan("run-3"), LIFETIME)
    assert [plan.run_id for plan in ledger.runs()] == ["run-1", "run-2"]


def test_the_same_key_gives_the_same_bytes_free_of_charge(ledger: Ledger, ledger_path: Path, make_plan: Any) -> None:
    plan = ledger.open_run(make_plan(), LIFETIME)
    assert ledger.reply("run-1", 1, "k") is None
    ledger.commit(take(ledger, plan, 1), b"\x00update\xff")
    spent = ledger.spent("heart", 1e-5)
    for opened in (ledger, Ledger.open(ledger_path, "hospital-a")):
        assert opened.reply("run-1", 1, "k") == b"\x00update\xff"
        with pytest.raises(ReleaseRefusedError, match="already released"):
            take(opened, plan, 1)
        assert opened.reply("run-1", 1, "other") is None
        assert opened.reply("run-1", 2, "k") is None
        assert opened.spent("heart", 1e-5) == spent
        assert [entry.state for entry in opened.entries()] == ["committed"]


def test_another_key_is_another_release_and_charged(ledger: Ledger, make_plan: Any) -> None:
    plan = ledger.open_run(make_plan(), LIFETIME)
    for key in ("a", "b"):
        ledger.commit(take(ledger, plan, 1, key), key.encode())
    assert len(ledger.entries()) == 2
    assert ledger.spent("heart", 1e-5) == pytest.approx(epsilon([plan.round_event()] * 2, 1e-5))


def test_a_commit_is_for_one_open_reservation(ledger: Ledger, make_plan: Any) -> None:
    plan = ledger.open_run(make_plan(), LIFETIME)
    first, second = take(ledger, plan, 1), take(ledger, plan, 1)
    ledger.commit(first, b"one")
    with pytest.raises(ReleaseRefusedError, match="got committed"):
        ledger.commit(first, b"two")
    with pytest.raises(ReleaseRefusedError, match="another attempt"):
        ledger.commit(second, b"two")  # two attempts at one key raced: one reply, both spent
    with pytest.raises(ReleaseRefusedError, match="got none"):
        ledger.commit(Reservation(77, "run-1", 1, "k"), b"two")
    with pytest.raises(ReleaseRefusedError, match="got none"):
        ledger.commit(Reservation(second.entry, "run-1", 2, "k"), b"two")
    assert ledger.reply("run-1", 1, "k") == b"one"
    assert [entry.state for entry in ledger.entries()] == ["committed", "reserved"]


def test_an_abandoned_reservation_stays_spent(ledger: Ledger, ledger_path: Path, make_plan: Any) -> None:
    plan = ledger.open_run(make_plan(), LIFETIME)
    take(ledger, plan, 1)
    with Ledger.open(ledger_path, "hospital-a") as again:
        assert [entry.state for entry in again.entries("run-1")] == ["reserved"]
        assert again.spent("heart", 1e-5) == epsilon([plan.round_event()], 1e-5) > 0


def test_retries_of_a_round_are_bounded(ledger: Ledger, make_plan: Any) -> None:
    plan = ledger.open_run(make_plan(rounds=20), LIFETIME)
    for key in ("a", "b", "c"):
        take(ledger, plan, 1, key)
    with pytest.raises(RetriesExhaustedError, match="at most 3"):
        take(ledger, plan, 1, "d")
    assert len(ledger.entries()) == 3
    take(ledger, plan, 2)
    with pytest.raises(RetriesExhaustedError):
        take(ledger, plan, 2, max_attempts_per_round=1)


def test_an_exhausted_run_refuses_and_writes_nothing(ledger: Ledger, make_plan: Any) -> None:
    plan = ledger.open_run(make_plan(), LIFETIME)
    for round_ in range(1, 6):
        take(ledger, plan, round_)
    before = ledger.export()
    with pytest.raises(BudgetExhaustedError, match="receive only"):
        take(ledger, plan, 6)
    assert ledger.export() == before
    assert ledger.spent("heart", 1e-5) <= 1.0


def test_the_lifetime_holds_over_runs_and_openings(ledger_path: Path, make_plan: Any) -> None:
    for number in range(1, 5):
        with Ledger.open(ledger_path, "hospital-a") as ledger:
            plan = ledger.open_run(make_plan(f"run-{number}"), LIFETIME)
            left = ledger.lifetime_left("heart", LIFETIME)
            assert left.epsilon == pytest.approx(4.0 - (number - 1))
            for round_ in range(1, 6):
                take(ledger, plan, round_)
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        assert ledger.lifetime_left("heart", LIFETIME).epsilon == 0
        spender = make_plan("run-5", allowance=Budget(3.9, 1e-5))
        ledger.open_run(spender, LIFETIME)  # opening costs nothing ...
        with pytest.raises(BudgetExhaustedError, match="lifetime"):
            take(ledger, spender, 1)  # ... and releasing is refused, for both rules fail
        assert len(ledger.entries()) == 20
        other = ledger.open_run(make_plan("run-6", dataset="lungs"), LIFETIME)
        take(ledger, other, 1)  # another data set has its own lifetime
        assert ledger.spent("heart", 4e-5) < 4.0


def test_a_run_larger_than_the_lifetime_is_not_opened(ledger: Ledger, make_plan: Any) -> None:
    for lifetime in (Budget(0.5, 4e-5), Budget(4.0, 1e-6)):
        with pytest.raises(BudgetExhaustedError, match="within the lifetime"):
            ledger.open_run(make_plan(), lifetime)
    assert ledger.runs() == []


def test_partitions_have_their_own_account(ledger: Ledger, make_plan: Any) -> None:
    metric = GaussianRelease(noise_multiplier=12.0, count=1, partition="evaluation", unit="record")
    plan = ledger.open_run(make_plan(other_events=(metric,)), LIFETIME)
    for round_ in range(1, 6):
        ledger.reserve("run-1", round_, "k", plan.round_events(), lifetime=LIFETIME)
    with pytest.raises(BudgetExhaustedError):
        ledger.reserve("run-1", 6, "k", plan.round_events(), lifetime=LIFETIME)
    # Training is spent, the final evaluation is not.
    ledger.reserve("run-1", 6, "k", [metric], lifetime=LIFETIME)
    assert ledger.spent("heart", 1e-5) <= 1.0


def test_events_outside_the_plan_are_refused(ledger: Ledger, make_plan: Any) -> None:
    plan = ledger.open_run(make_plan(), LIFETIME)
    sharper = PoissonGaussian(noise_multiplier=0.5, sampling_rate=0.2, steps=1, partition="train", unit="record")
    extra = GaussianRelease(noise_multiplier=50.0, count=1, partition="evaluation", unit="record")
    bare = NonPrivate(what="update", partition="train", unit="record")
    for event in (sharper, extra, bare):
        with pytest.raises(ReleaseRefusedError, match="not in its plan"):
            ledger.reserve("run-1", 1, "k", [plan.round_event(), event], lifetime=LIFETIME)
    other_unit = GaussianRelease(noise_multiplier=50.0, count=1, partition="train", unit="patient_id")
    with pytest.raises(ReleaseRefusedError, match="'patient_id'"):
        ledger.reserve("run-1", 1, "k", [other_unit], lifetime=LIFETIME)
    with pytest.raises(ReleaseRefusedError, match="not opened"):
        ledger.reserve("run-9", 1, "k", [plan.round_event()], lifetime=LIFETIME)
    empty: list[Event] = []
    with pytest.raises(PlanError, match="without an event"):
        ledger.reserve("run-1", 1, "k", empty, lifetime=LIFETIME)
    assert ledger.entries() == []


def test_non_private_runs_are_called_so_and_end_the_lifetime(ledger: Ledger, make_plan: Any) -> None:
    free = Budget(math.inf, 4e-5)
    plan = make_plan("open", non_private=True, allowance=Budget(math.inf, 0.0))
    with pytest.raises(BudgetExhaustedError):
        ledger.open_run(plan, LIFETIME)
    ledger.open_run(plan, free)
    with pytest.raises(BudgetExhaustedError, match="lifetime"):
        take(ledger, plan, 1)
    ledger.commit(take(ledger, plan, 1, lifetime=free), b"bare")
    assert ledger.spent("heart", 1e-5) == math.inf
    private = ledger.open_run(make_plan(), LIFETIME)
    with pytest.raises(BudgetExhaustedError, match="lifetime"):
        take(ledger, private, 1)
    assert ledger.plan("open") == plan
    json.dumps(ledger.export(), allow_nan=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"allowance": Budget(1.0, 0.006)},
        {"non_private": True, "allowance": Budget(1.0, 1e-5)},
        {"noise_multiplier": 0.0},
        {"noise_multiplier": -1.0},
        {"rounds": 0},
        {"steps_per_round": 0},
        {"clip": 0.0},
        {"run_id": ""},
        {"other_events": (GaussianRelease(noise_multiplier=1.0, count=1, partition="train", unit="patient_id"),)},
    ],
    ids="-".join,
)
def test_plans_out_of_range_are_refused(changes: dict[str, Any], make_plan: Any) -> None:
    with pytest.raises(PlanError):
        make_plan(**{"noise_multiplier": 5.0, "steps_per_round": 4, **changes})


# The file


def test_only_create_makes_a_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with pytest.raises(LedgerMissingError, match="consortia budget init"):
        Ledger.open(path, "hospital-a")
    assert list(tmp_path.iterdir()) == []
    Ledger.create(path, "hospital-a").close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["ledger.db"]
    content = path.read_bytes()
    with pytest.raises(LedgerSchemaError, match="never replaced"):
        Ledger.create(path, "hospital-a")
    assert path.read_bytes() == content


def test_every_commit_is_synced(ledger: Ledger) -> None:
    with ledger._use() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_another_schema_is_refused_naming_both(ledger_path: Path) -> None:
    connection = sqlite3.connect(ledger_path)
    connection.execute("UPDATE meta SET value = '7' WHERE name = 'schema'")
    connection.commit()
    connection.close()
    with pytest.raises(LedgerSchemaError, match="wanted 3, got 7"):
        Ledger.open(ledger_path, "hospital-a")


def test_another_participant_is_refused_naming_both(ledger_path: Path) -> None:
    with pytest.raises(LedgerSchemaError, match="'bank-a', got 'hospital-a'"):
        Ledger.open(ledger_path, "bank-a")


@pytest.mark.parametrize("content", [b"", b"not a ledger at all, but long enough to be read as a header" * 9])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    with pytest.raises(LedgerSchemaError, match="another kind of file"):
        Ledger.open(path, "hospital-a")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries",
        "DELETE FROM runs",
        "UPDATE entries SET events = '[]'",
        "UPDATE entries SET state = 'reserved', reply_sha256 = NULL",
        "UPDATE runs SET plan = '{}'",
        "UPDATE outbox SET reply = x'00'",
    ],
)
def test_what_was_charged_cannot_be_taken_back(ledger: Ledger, make_plan: Any, statement: str) -> None:
    ledger.commit(take(ledger, ledger.open_run(make_plan(), LIFETIME), 1), b"reply")
    with ledger._use() as connection, pytest.raises(sqlite3.IntegrityError, match=r"never|only"):
        connection.execute(statement)


def test_the_export_is_json_and_complete(ledger: Ledger, make_plan: Any) -> None:
    plan = ledger.open_run(make_plan(), LIFETIME)
    ledger.commit(take(ledger, plan, 1), b"reply")
    take(ledger, plan, 2)
    exported = json.loads(json.dumps(ledger.export(), allow_nan=False))
    assert exported["schema"] == 3
    assert exported["participant"] == "hospital-a"
    assert exported["units"] == {"heart": "record"}
    assert [entry["state"] for entry in exported["entries"]] == ["committed", "reserved"]
    assert exported["entries"][0]["events"][0]["kind"] == "poisson_gaussian"
    assert exported["entries"][0]["created"].endswith("+00:00")


# Together


def test_threads_that_reserve_at_once_never_exceed_the_budget(ledger_path: Path, make_plan: Any) -> None:
    plan = make_plan()
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        ledger.open_run(plan, LIFETIME)
        outcomes: list[str] = []

        def work(number: int) -> None:
            mine = ledger if number % 2 else Ledger.open(ledger_path, "hospital-a")
            for round_ in range(3):
                try:
                    take(mine, plan, number * 10 + round_)
                    outcomes.append("ok")
                except BudgetExhaustedError:
                    outcomes.append("exhausted")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (outcomes.count("ok"), outcomes.count("exhausted")) == (5, 13)
        assert len(ledger.entries()) == 5


def test_processes_that_reserve_at_once_never_exceed_the_budget(ledger_path: Path, make_plan: Any) -> None:
    plan = make_plan()
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        ledger.open_run(plan, LIFETIME)
        children = []
        for number in range(4):
            child = os.fork()
            if child == 0:
                done = 99
                try:
                    done = 0
                    with Ledger.open(ledger_path, "hospital-a") as mine:
                        for round_ in range(4):
                            try:
                                take(mine, plan, number * 10 + round_)
                                done += 1
                            except BudgetExhaustedError:
                                pass
                finally:
                    os._exit(done)
            children.append(child)
        granted = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert sum(granted) == 5 == len(ledger.entries())


def test_a_handle_is_refused_after_a_fork(ledger: Ledger) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            ledger.entries()
        except LedgerBusyError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_ledger_that_stays_locked_is_a_bounded_wait(
    ledger: Ledger, ledger_path: Path, make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = ledger.open_run(make_plan(), LIFETIME)
    monkeypatch.setattr("privacy._ledger_sql.BUSY_SECONDS", 0.1)
    with Ledger.open(ledger_path, "hospital-a") as waiting:
        with ledger._use() as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerBusyError, match="another process"):
                take(waiting, plan, 1)
            connection.execute("ROLLBACK")
        take(waiting, plan, 1)
