"""The benchmarks in small: what made steps and aggregation quick has not been lost. Bounds are far below the tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
