"""Plans and ledgers that several files of tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privacy.accounting import solve_noise_multiplier
from privacy.ledger import Budget, Ledger, RunPlan

MakePlan = Callable[..., RunPlan]


@pytest.fixture
def make_plan() -> MakePlan:
    """A plan of 5 rounds x 4 steps whose noise spends its allowance of (1, 1e-5) in full."""

    def make(run_id: str = "run-1", **changes: Any) -> RunPlan:
        rounds, steps = changes.get("rounds", 5), changes.get("steps_per_round", 4)
        allowance = changes.get("allowance", Budget(1.0, 1e-5))
        values: dict[str, Any] = {
            "run_id": run_id,
            "dataset": "heart",
            "contract_sha256": "c" * 64,
            "unit": "record",
            "declared_units": 200,
            "allowance": allowance,
            "noise_multiplier": 0.0
            if changes.get("non_private")
            else solve_noise_multiplier(
                epsilon=allowance.epsilon, delta=allowance.delta, sampling_rate=0.2, steps=rounds * steps
            ),
            "sampling_rate": 0.2,
            "steps_per_round": steps,
            "rounds": rounds,
            "clip": 1.0,
            "non_private": False,
        }
        return RunPlan(**{**values, **changes})

    return make


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    """Where the ledger of hospital-a was just made."""
    path = tmp_path / "ledger.db"
    Ledger.create(path, "hospital-a").close()
    return path
