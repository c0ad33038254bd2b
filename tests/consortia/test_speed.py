"""The benchmarks in small: what made things quick has not been lost.

Ratios of CPU times in one run, with bounds far below the tables, or counts; never a time by a clock. A number of
`docs/reference/speed.md` that nothing here guards is guarded where its part is tested: what a checkpoint weighs in
`test_checkpoint.py`, what `check` keeps on disk in `test_known_plans.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss

from consortia.vertical import psi
from privacy import accounting
from privacy.events import GaussianRelease, PoissonGaussian
from privacy.ledger import Ledger
from privacy.plans import Budget, RunPlan

ROOT = Path(__file__).resolve().parents[2]


def _ratios(benchmark: str, folder: Path) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}", "OMP_NUM_THREADS": "1"}
    file = folder / "found.json"
    subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / benchmark), "--quick", "--json", str(file)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    found = json.loads(file.read_text(encoding="utf-8"))
    for one in found:
        assert one.keys() == {"name", "value", "unit", "ratio", "ratio_min", "ratio_max"}
        assert one["ratio_min"] <= one["ratio"] <= one["ratio_max"]
    return {one["name"].rsplit(", 4,097", 1)[0].rsplit(", 10 updates", 1)[0]: one["ratio"] for one in found}


def _quicker(ours: Callable[[], object], other: Callable[[], object]) -> float:
    """Return the CPU time of `other` over ours: the least of three each, by turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(3):
        for work, taken in zip((ours, other), times, strict=True):
            start = time.process_time()
            work()
            taken.append(time.process_time() - start)
    return min(times[1]) / min(times[0])


@pytest.mark.end_to_end
def test_a_dp_step_is_near_plain_torch_and_far_from_per_row_gradients(tmp_path: Path) -> None:
    ratios = _ratios("dp_step.py", tmp_path)
    assert ratios["consortia"] > 0.75
    assert ratios["consortia against Opacus hooks, rows in memory"] > 3
    assert ratios["consortia against Opacus hooks, DataLoader"] > 4


@pytest.mark.end_to_end
def test_robust_aggregation_is_far_from_sorting_copies(tmp_path: Path) -> None:
    # A million floats fit the cache, where Flower's float32 mean has no copies to pay for.
    wanted = {"median": 2.5, "trimmed mean": 2.5, "mean": 0.25, "weighted mean": 0.25, "Krum": 0.25}
    ratios = _ratios("aggregation.py", tmp_path)
    assert all(ratios[name] > bound for name, bound in wanted.items()), ratios


@pytest.mark.end_to_end
def test_a_simulation_is_far_from_a_loop_over_its_participants(tmp_path: Path) -> None:
    ratios = _ratios("simulation.py", tmp_path)
    assert max(ratios.values()) > 2, ratios


def test_no_function_is_called_for_every_point_of_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: object) -> float:
        raise AssertionError("one point of the grid")

    monkeypatch.setattr(GaussianPrivacyLoss, "inverse_privacy_loss", called)
    event = PoissonGaussian(noise_multiplier=0.3, sampling_rate=1e-6, steps=10, partition="train", unit="record")
    assert event.pld(1e-2).get_epsilon_for_delta(1e-6) > 0


def test_noise_for_a_large_epsilon_is_found_on_few_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before coarser grids it took 2.8 million."""
    points: list[float] = []
    counted = PoissonGaussian.pld

    def pld(event: PoissonGaussian, grid: float) -> Any:
        points.append(event.loss_span() / grid)
        return counted(event, grid)

    monkeypatch.setattr(PoissonGaussian, "pld", pld)
    sigma = accounting.solve_noise_multiplier(epsilon=1000.0, delta=1.2e-6, sampling_rate=0.05, steps=1000)
    assert 0.18 < sigma < 0.19
    assert points
    assert sum(points) < 1.5e6


def test_a_round_is_charged_without_counting_its_plan_again(tmp_path: Path) -> None:
    release = GaussianRelease(noise_multiplier=200.0, count=1, partition="train", unit="record")
    plan = RunPlan(
        run_id="run", dataset="heart", contract_sha256="c" * 64, unit="record", declared_units=1000,
        allowance=Budget(4.0, 1e-5), noise_multiplier=2.0, sampling_rate=0.02, steps_per_round=5, rounds=30, clip=1.0,
        non_private=False, other_events=(release,),
    )  # fmt: skip
    with Ledger.create(tmp_path / "ledger.db", "bank") as ledger:
        ledger.open_run(plan, lifetime=Budget(8.0, 1e-4))
        counted = accounting._pld_epsilon.cache_info().misses
        for number in range(1, plan.rounds + 1):
            ledger.reserve("run", number, f"{number:064x}", plan.round_events(), lifetime=Budget(8.0, 1e-4))
        assert accounting._pld_epsilon.cache_info().misses == counted


def test_a_power_of_a_point_costs_little_more_than_openssl_takes() -> None:
    points = [psi.hash_to_curve(b"speed", f"person {number}") for number in range(400)]
    power = psi.new_power()
    key = ec.derive_private_key(int.from_bytes(power, "big"), ec.SECP256R1())
    loaded = [ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x02" + point) for point in points]
    agreed = ec.ECDH()
    ratio = _quicker(
        lambda: psi.raise_points(b"".join(points), power, len(points)),
        lambda: [key.exchange(agreed, point) for point in loaded],
    )
    assert ratio > 0.3
