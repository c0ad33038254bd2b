"""Runs of many processes at one ledger: the lifetime holds whatever the order."""

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from privacy.errors import BudgetExhaustedError, PrivacyError
from privacy.filters import LifetimeFilter
from privacy.ledger import Budget, Ledger

LIFETIME = Budget(4.0, 4e-5)


@pytest.mark.end_to_end
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_runs_of_many_processes_share_one_lifetime(seed: int, ledger_path: Path, make_plan: Any) -> None:
    """Six runs race for a lifetime that holds four: whatever the order, no more is granted, and the chain adds up."""
    plans = [make_plan(f"run-{number}", rounds=2) for number in range(6)]  # counted here, before the forks
    children = []
    for number, plan in enumerate(plans):
        child = os.fork()
        if child == 0:
            random.seed(seed * 10 + number)
            done = 0
            try:
                with Ledger.open(ledger_path, "hospital-a") as mine:
                    mine.open_run(plan, LIFETIME)
                    for round_ in (1, 2):
                        time.sleep(random.uniform(0, 0.02))
                        try:
                            reservation = mine.reserve(plan.run_id, round_, "k", plan.round_events(), lifetime=LIFETIME)
                            done += 1
                            if random.random() < 0.7:
                                mine.commit(reservation, os.urandom(32))
                            mine.note({"number": number})
                        except BudgetExhaustedError:
                            pass
            except PrivacyError:
                done = 99
            finally:
                os._exit(done)
        children.append(child)
    granted = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    with Ledger.open(ledger_path, "hospital-a") as ledger:
        entries = ledger.entries()
        assert sum(granted) == len(entries)
        # Rule A: at most four runs of (1, 1e-5) fit into (4, 4e-5). Rule B, the Renyi filter, may grant more; by
        # either the lifetime is sound, and the estimate stays within it.
        assert len({entry.run_id for entry in entries}) >= 4
        assert ledger.spent("heart", LIFETIME.delta) <= LIFETIME.epsilon
        runs = [plan.allowance for plan in plans if plan.run_id in {entry.run_id for entry in entries}]
        events = [event for entry in entries for event in entry.events]
        assert LifetimeFilter(LIFETIME).allows(runs, events)
        ledger.verify()
