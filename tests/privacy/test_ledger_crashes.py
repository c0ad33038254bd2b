"""A process may die anywhere: ledger = commits + abandoned reservations, and never below what got out."""

import hashlib
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import LedgerMissingError, LedgerSchemaError, RetriesExhaustedError
from privacy.failpoints import FAILPOINTS, listening
from privacy.filters import run_epsilon_bound
from privacy.ledger import Budget, Ledger, RunPlan

LIFETIME = Budget(4.0, 4e-5)
CREATING = [name for name in FAILPOINTS if name.startswith("create")]
RUNNING = [name for name in FAILPOINTS if not name.startswith("create")]


class Stopped(Exception):
    """What a failpoint raises when the process is to live on."""


class Receiver:
    """Somebody else's append-only log of what arrived; knows nothing of the ledger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def receive(self, round_: int, key: str, reply: bytes) -> None:
        log = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(log, f"{round_} {key} {hashlib.sha256(reply).hexdigest()}\n".encode())
        os.close(log)

    def arrived(self) -> list[tuple[int, str, str]]:
        if not self.path.exists():
            return []
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return [(int(round_), key, digest) for round_, key, digest in lines]


def release(ledger: Ledger, plan: RunPlan, round_: int, key: str, receiver: Receiver) -> None:
    """What a participant does with one message: check, charge, store, then release from the outbox."""
    if ledger.reply(plan.run_id, round_, key) is None:
        reservation = ledger.reserve(plan.run_id, round_, key, plan.round_events(), lifetime=LIFETIME)
        ledger.commit(reservation, os.urandom(64))  # other noise in every attempt
    reply = ledger.reply(plan.run_id, round_, key)
    assert reply is not None
    receiver.receive(round_, key, reply)


def forked(action: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return child


def assert_never_below_what_got_out(ledger: Ledger, receiver: Receiver) -> None:
    entries = ledger.entries()
    committed = {(entry.round, entry.key): entry.reply_sha256 for entry in entries if entry.state == "committed"}
    assert {entry.state for entry in entries} <= {"committed", "reserved"}
    assert len(committed) == sum(entry.state == "committed" for entry in entries)
    for round_, key, arrived in receiver.arrived():
        assert committed.get((round_, key)) == arrived  # charged, and the same bytes every time
    for (round_, key), digest in committed.items():
        reply = ledger.reply("run-1", round_, key)
        assert reply is not None
        assert hashlib.sha256(reply).hexdigest() == digest
    with ledger._use() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("dies", [False, True], ids=["raises", "dies"])
@pytest.mark.parametrize("name", RUNNING)
def test_a_stop_between_any_two_durable_steps(
    name: str, dies: bool, ledger_path: Path, tmp_path: Path, make_plan: Any
) -> None:
    plan, receiver = make_plan(), Receiver(tmp_path / "received")
    reached: list[str] = []

    def stop(place: str) -> None:
        reached.append(place)
        if place == name:
            if dies:
                os._exit(9)
            raise Stopped

    def attempt() -> None:
        with listening(stop), Ledger.open(ledger_path, "hospital-a") as ledger:
            ledger.open_run(plan, LIFETIME)
            release(ledger, plan, 1, "k", receiver)

    if dies:
        assert os.waitstatus_to_exitcode(os.waitpid(forked(attempt), 0)[1]) == 9
    else:
        with pytest.raises(Stopped):
            attempt()
        assert reached == RUNNING[: RUNNING.index(name) + 1]
    assert receiver.arrived() == []  # nothing leaves before it is stored
    at = RUNNING.index
    charged = at(name) >= at("reserve.committed")
    stored = at(name) >= at("commit.committed")
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        wanted = ["committed" if stored else "reserved"] if charged else []
        assert [entry.state for entry in ledger.entries()] == wanted
        assert (ledger.plan("run-1") is not None) == (at(name) >= at("open_run.committed"))
        before = ledger.reply("run-1", 1, "k")
        assert (before is not None) == stored
        # Asked again it goes on: free and byte-identical when stored, otherwise a new, charged attempt.
        ledger.open_run(plan, LIFETIME)
        release(ledger, plan, 1, "k", receiver)
        states = [entry.state for entry in ledger.entries()]
        assert states == ([] if stored else wanted) + ["committed"]
        if stored:
            assert ledger.reply("run-1", 1, "k") == before
        assert_never_below_what_got_out(ledger, receiver)


def test_every_failpoint_is_passed_in_the_listed_order(tmp_path: Path, make_plan: Any) -> None:
    reached: list[str] = []
    plan = make_plan()
    with listening(reached.append), Ledger.create(tmp_path / "ledger.db", "hospital-a") as ledger:
        ledger.open_run(plan, LIFETIME)
        release(ledger, plan, 1, "k", Receiver(tmp_path / "received"))
    assert tuple(reached) == FAILPOINTS


@pytest.mark.parametrize("dies", [False, True], ids=["raises", "dies"])
@pytest.mark.parametrize("name", CREATING)
def test_a_ledger_is_made_whole_or_not_at_all(name: str, dies: bool, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    def stop(place: str) -> None:
        if place == name:
            if dies:
                os._exit(9)
            raise Stopped

    def attempt() -> None:
        with listening(stop):
            Ledger.create(path, "hospital-a")

    if dies:
        assert os.waitstatus_to_exitcode(os.waitpid(forked(attempt), 0)[1]) == 9
    else:
        with pytest.raises(Stopped):
            attempt()
        assert {entry.name for entry in tmp_path.iterdir()} <= {"ledger.db"}
    if CREATING.index(name) < CREATING.index("create.linked"):
        with pytest.raises(LedgerMissingError):
            Ledger.open(path, "hospital-a")
        Ledger.create(path, "hospital-a").close()
    with Ledger.open(path, "hospital-a") as ledger:
        assert ledger.entries() == []


def test_a_ledger_that_appears_meanwhile_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"

    def somebody_else(place: str) -> None:
        if place == "create.schema":
            path.write_bytes(b"another ledger")

    with listening(somebody_else), pytest.raises(LedgerSchemaError, match="never replaced"):
        Ledger.create(path, "hospital-a")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("ledger.db", b"another ledger")]


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.end_to_end)])
def test_random_kills(kills: int, ledger_path: Path, tmp_path: Path, make_plan: Any) -> None:
    receiver = Receiver(tmp_path / "received")
    plan = make_plan(rounds=20_000, steps_per_round=1, noise_multiplier=4000.0)
    run_epsilon_bound(plan, plan.round_events())  # counted once here, so that the children start at once
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        ledger.open_run(plan, LIFETIME)
    delays = random.Random(20)
    abandoned = 0
    for kill in range(kills):
        ready, started = os.pipe()

        def wait(place: str, first: bool = kill == 0, started: int = started) -> None:
            # Where the others are killed is chance; on a busy machine none of 20 may be between these two steps.
            if first and place == "commit.before":
                os.write(started, b"x")
                signal.pause()

        def loop(started: int = started, wait: Callable[[str], None] = wait) -> None:
            with listening(wait), Ledger.open(ledger_path, "hospital-a") as ledger:
                round_ = max((entry.round for entry in ledger.entries()), default=1)
                while True:  # the last round is asked again first: the sender cannot know what arrived
                    with suppress(RetriesExhaustedError):
                        release(ledger, plan, round_, f"key-{round_}", receiver)
                    os.write(started, b"x")
                    round_ += 1

        child = forked(loop)
        os.close(started)
        for _ in range(delays.randint(1, 4) if kill else 1):
            assert os.read(ready, 1) == b"x"
        time.sleep(delays.uniform(0.0, 0.006))
        os.kill(child, signal.SIGKILL)
        os.close(ready)  # after the kill: a closed pipe would stop the child in an orderly way
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == -signal.SIGKILL  # it was killed, it did not fail by itself
        with Ledger.open(ledger_path, "hospital-a") as ledger:
            assert_never_below_what_got_out(ledger, receiver)
            entries = ledger.entries()
            abandoned = sum(entry.state == "reserved" for entry in entries)
            assert len(entries) == abandoned + sum(entry.state == "committed" for entry in entries)
            # One process at a time abandons at most one reservation each time.
            assert abandoned <= kills
            ledger.verify()
    arrived = receiver.arrived()
    assert len({key for _, key, _ in arrived}) > kills
    assert len(arrived) > len({key for _, key, _ in arrived})  # some were asked again, and were identical
    assert abandoned > 0  # one kill at least did hit between reserving and committing
