"""The hash chain: by hand, against every edit of a row, against truncation, and over a migration."""

import hashlib
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from privacy._chain import Anchor, verify_export
from privacy._ledger_sql import migrate_file
from privacy.errors import LedgerBehindError, LedgerBrokenError, LedgerForkedError, LedgerSchemaError
from privacy.ledger import Budget, Ledger

LIFETIME = Budget(4.0, 4e-5)


def used(path: Path, plan: Any, rounds: int = 2) -> list[Anchor]:
    """Open a run, release `rounds` times, abandon one; return the links that the replies left with."""
    with Ledger.open(path, "hospital-a") as ledger:
        ledger.open_run(plan, LIFETIME)
        ledger.note({"what": "budget", "run": 1.0})
        anchors = []
        for round_ in range(1, rounds + 1):
            reservation = ledger.reserve(plan.run_id, round_, "k", plan.round_events(), lifetime=LIFETIME)
            ledger.commit(reservation, b"reply")
            anchors.append(reservation.anchor)
        ledger.reserve(plan.run_id, rounds + 1, "k", plan.round_events(), lifetime=LIFETIME)
        return anchors


def test_the_chain_by_hand(ledger_path: Path, make_plan: Any) -> None:
    used(ledger_path, make_plan())
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        data, end = ledger.export(), ledger.verify()
    run, (first, *_) = data["runs"][0], data["entries"]
    events = json.dumps(first["events"], sort_keys=True)
    rows: list[list[Any]] = [
        [1, "created", "hospital-a", data["salt"]],
        [2, "run", *run["chained"]],
        [3, "note", 1, '{"run": 1.0, "what": "budget"}'],
        [4, "reserved", 1, "run-1", "heart", 1, "k", events],
        [5, "committed", 1, hashlib.sha256(b"reply").hexdigest()],
        [6, "reserved", 2, "run-1", "heart", 2, "k", events],
        [7, "committed", 2, hashlib.sha256(b"reply").hexdigest()],
        [8, "reserved", 3, "run-1", "heart", 3, "k", events],
    ]
    head = bytes(32)
    for row, link in zip(rows, data["chain"], strict=True):
        head = hashlib.sha256(head + json.dumps(row, separators=(",", ":")).encode()).digest()
        assert link["head"] == head.hex()
    assert end == Anchor(8, head.hex()) == Anchor(data["counter"], data["head"]) == verify_export(data)
    assert len(data["salt"]) == 64


def test_two_ledgers_with_the_same_rows_have_different_heads(tmp_path: Path, make_plan: Any) -> None:
    heads = set()
    for name in ("a", "b"):
        Ledger.create(tmp_path / name, "hospital-a").close()
        heads |= {anchor.head for anchor in used(tmp_path / name, make_plan())}
    assert len(heads) == 4  # the salt: a head tells nothing to who can guess the rows


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET events = replace(events, '\"steps\": 4', '\"steps\": 1')",
        "DELETE FROM entries WHERE seq = 3",
        "UPDATE entries SET reply_sha256 = 'f' WHERE seq = 1",
        "UPDATE entries SET state = 'reserved', reply_sha256 = NULL WHERE seq = 2",
        "UPDATE runs SET plan = replace(plan, '\"rounds\": 5', '\"rounds\": 9')",
        "UPDATE runs SET bounds = '{\"train\": 0.0}'",
        "UPDATE notes SET text = '{}'",
        "UPDATE chain SET head = '00' WHERE seq = 4",
        "DELETE FROM chain WHERE seq = 8",
        "DELETE FROM chain WHERE seq = 2",
        "UPDATE meta SET value = '00' WHERE name = 'salt'",
        "INSERT INTO notes (text, created) VALUES ('{}', 'now')",
    ],
)
def test_a_row_that_was_edited_does_not_open(ledger_path: Path, make_plan: Any, statement: str) -> None:
    used(ledger_path, make_plan())
    connection = sqlite3.connect(ledger_path)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")  # the triggers stop accidents, the chain shows intent
    assert connection.execute(statement).rowcount > 0
    connection.commit()
    connection.close()
    with pytest.raises(LedgerBrokenError):
        Ledger.open(ledger_path, "hospital-a")


def test_a_ledger_holds_its_own_links_and_no_others(ledger_path: Path, tmp_path: Path, make_plan: Any) -> None:
    first, second = used(ledger_path, make_plan())
    backup = tmp_path / "backup.db"
    shutil.copyfile(ledger_path, backup)
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        plan = ledger.open_run(make_plan("run-2"), LIFETIME)
        later = ledger.reserve("run-2", 1, "k", plan.round_events(), lifetime=LIFETIME).anchor
        assert later is not None
        for known in (first, second, later, ledger.anchor("run-2"), ledger.anchor()):
            ledger.check_anchor(known)
        assert ledger.anchor("run-2") == later
    with Ledger.open(backup, "hospital-a") as restored:
        restored.check_anchor(second)
        with pytest.raises(LedgerBehindError, match=r"at least 10 links.*got 8"):
            restored.check_anchor(later)
        for number in (3, 4):  # it goes on by itself, past the place: two forks of one ledger
            restored.open_run(make_plan(f"run-{number}"), LIFETIME)
        with pytest.raises(LedgerForkedError, match="link 10"):
            restored.check_anchor(later)
    other = tmp_path / "new.db"
    Ledger.create(other, "hospital-a").close()
    with Ledger.open(other, "hospital-a") as anew, pytest.raises(LedgerBehindError):
        anew.check_anchor(first)


def test_a_note_is_written_once_and_costs_nothing(ledger_path: Path, make_plan: Any) -> None:
    used(ledger_path, make_plan())
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        spent = ledger.spent("heart", 1e-5)
        for run in (1.0, 2.0, 2.0, 1.0):
            ledger.note({"what": "budget", "run": run})
        assert [note["run"] for _, note in ledger.notes()] == [1.0, 2.0, 1.0]
        assert ledger.spent("heart", 1e-5) == spent
        ledger.verify()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["entries"].pop(),
        lambda d: d["entries"][0]["events"][0].update(steps=1),
        lambda d: d["runs"][0].update(rounds=9),
        lambda d: d["runs"].pop(),
        lambda d: d["notes"][0]["note"].update(run=9.0),
        lambda d: d["chain"].pop(),
        lambda d: d.pop("salt"),
    ],
)
def test_an_export_that_was_edited_is_found(ledger_path: Path, make_plan: Any, change: Any) -> None:
    used(ledger_path, make_plan())
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        data = json.loads(json.dumps(ledger.export()))
    change(data)
    with pytest.raises(LedgerBrokenError):
        verify_export(data)


def test_a_ledger_without_a_chain_is_refused_and_migrated(ledger_path: Path, make_plan: Any) -> None:
    used(ledger_path, make_plan())
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        before = ledger.entries()
        spent = ledger.spent("heart", 1e-5)
    connection = sqlite3.connect(ledger_path)  # as schema 1 was
    connection.executescript(
        "DROP TABLE claims; DROP TABLE cohorts;"
        "DROP TABLE chain; DROP TABLE notes; ALTER TABLE runs DROP COLUMN bounds; DELETE FROM meta WHERE name = 'salt';"
        "UPDATE meta SET value = '1' WHERE name = 'schema';"
    )
    connection.close()
    with pytest.raises(LedgerSchemaError, match=r"wanted 3, got 1.*budget migrate"):
        Ledger.open(ledger_path, "hospital-a")
    with pytest.raises(LedgerSchemaError, match="'bank-a'"):
        migrate_file(ledger_path, "bank-a")
    migrate_file(ledger_path, "hospital-a")
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        assert ledger.entries() == before
        assert ledger.spent("heart", 1e-5) == spent
        assert ledger.anchor().counter == 7  # made, one run, three reservations, two commits
        plan = ledger.plan("run-1")
        assert plan is not None
        assert ledger.reply("run-1", 1, "k") == b"reply"
        ledger.reserve("run-1", 4, "k", plan.round_events(), lifetime=LIFETIME)
        with ledger._use() as used_one, pytest.raises(sqlite3.IntegrityError, match="never"):
            used_one.execute("DELETE FROM chain")
    with pytest.raises(LedgerSchemaError, match="nothing to migrate"):
        migrate_file(ledger_path, "hospital-a")


def test_the_stored_count_of_a_plan_is_its_own(ledger_path: Path, make_plan: Any, monkeypatch: Any) -> None:
    """A new process asks the ledger without counting anything: what the plan costs was kept when it was opened."""
    plan = make_plan()
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        ledger.open_run(plan, LIFETIME)
    monkeypatch.setattr("privacy.filters.epsilon", lambda *_: pytest.fail("counted again"))
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        for round_ in range(1, 6):
            ledger.reserve("run-1", round_, "k", plan.round_events(), lifetime=LIFETIME)
