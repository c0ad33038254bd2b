"""The ledger on a disk without room: the kernel lets no file of this process grow beyond a bound."""

import resource
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import LedgerDiskError
from privacy.ledger import Budget, Ledger, Reservation, RunPlan

LIFETIME = Budget(4.0, 4e-5)


def take(ledger: Ledger, plan: RunPlan, round_: int) -> Reservation:
    return ledger.reserve(plan.run_id, round_, "k", [plan.round_event()], lifetime=LIFETIME)


def test_a_disk_without_room_for_the_commit_is_refused_before_anything_is_charged(
    ledger_path: Path, make_plan: Any
) -> None:
    ledger = Ledger.open(ledger_path, "hospital-a")
    plan = ledger.open_run(make_plan(), LIFETIME)
    ledger.commit(take(ledger, plan, 1), bytes(200_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for the reservation in the log, not for another such reply.
    least = (ledger_path.with_name("ledger.db-wal").stat().st_size + 100_000, before[1])
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, least)
        with pytest.raises(LedgerDiskError, match="before anything is charged"):
            take(ledger, plan, 2)
        assert len(ledger.entries()) == 1
        # A commit that fails all the same leaves its reservation spent, and nothing of the reply.
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        reservation = take(ledger, plan, 2)
        resource.setrlimit(resource.RLIMIT_FSIZE, least)
        with pytest.raises(LedgerDiskError, match="SQLITE_"):
            ledger.commit(reservation, bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    ledger.verify()
    assert [entry.state for entry in ledger.entries()] == ["committed", "reserved"]
    assert ledger.reply("run-1", 2, "k") is None
    ledger.close()
