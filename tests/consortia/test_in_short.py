"""The paragraph that `make run` ends in: numbers of the two records, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from consortia.common.errors import InputError
from consortia.reports.in_short import newest, paragraph


def _participant(industry: str, value: float, low: float, high: float, budget: float) -> dict[str, Any]:
    gain = {"value": value, "low": low, "high": high}
    return {"industry": industry, "net_gain": gain, "headline": "auc", "epsilon": {"budget": budget}, "metrics": {}}


def _kinds() -> dict[str, Any]:
    return {
        "synthetic": True,
        "participants": {
            "bank-a": _participant("bank", 0.03, 0.01, 0.05, 1.0),
            "bank-b": _participant("bank", 0.01, -0.01, 0.03, 8.0),
            "factory-a": _participant("factory", -0.02, -0.04, 0.01, 2.0),
        },
    }


def _persons() -> dict[str, Any]:
    owner = {
        "role": "label owner",
        "headline": "auc",
        "gain": {"value": 0.1, "low": 0.05, "high": 0.15},
        "metrics": {"auc": {"local": 0.62, "federated": 0.73}},
        "epsilon": {"run": 2.0},
    }
    return {"synthetic": True, "participants": {"bank": owner, "hospital": {"role": "partner"}}}


def test_the_paragraph_has_the_numbers_of_both_records() -> None:
    text = paragraph([_kinds(), _persons()])
    assert "bank +0.020, factory -0.020 (AUC" in text
    assert "clearly for 1, perhaps for 1, not for the others" in text
    assert "ε 1 to 8" in text
    assert "hospital helped the bank from 0.620 to 0.730 (AUC, label ε 2)" in text
    assert text.endswith("All rows are synthetic.")
    assert "synthetic" not in paragraph([_kinds() | {"synthetic": False}, _persons()])


def test_the_newest_finished_run_of_that_scenario_counts(tmp_path: Path) -> None:
    for number, (scenario, status) in enumerate(
        [("two", "completed"), ("two", "completed"), ("two", "failed"), ("two-more", "completed")]
    ):
        folder = tmp_path / f"{scenario}-2026112{number}"
        folder.mkdir()
        record = {"scenario": scenario, "status": status, "run_id": folder.name}
        (folder / "result.json").write_text(json.dumps(record), encoding="utf-8")
    assert newest(tmp_path, "two")["run_id"] == "two-20261121"
    with pytest.raises(InputError, match="wanted a finished run of three, got none"):
        newest(tmp_path, "three")
