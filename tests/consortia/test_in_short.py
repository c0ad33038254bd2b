"""The paragraph that `make run` ends in: that of each of the two records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from consortia.common.errors import InputError
from consortia.reports.decision import decide
from consortia.reports.in_short import newest, paragraph


def _record(name: str) -> dict[str, Any]:
    gain = {"value": 0.03, "low": 0.01, "high": 0.05}
    account = {"run": 2.0, "budget": 2.0, "delta": 1e-5, "non_private": False, "runs_left": 3}
    line = {
        "industry": "bank",
        "headline": "auc",
        "units": {"test": 30},
        "net_gain": gain,
        "epsilon": account,
        "metrics": {"auc": {"joined": 0.7}},
    }
    return {
        "scenario": name,
        "status": "completed",
        "observer": "simulation",
        "synthetic": True,
        "charged": True,
        "rounds": 2,
        "participants": {"bank-a": line},
    }


def test_the_paragraph_is_that_of_every_record() -> None:
    records = [_record("one"), _record("two")]
    text = paragraph([(record, None) for record in records])
    assert text == f"In short: one: {decide(records[0])} two: {decide(records[1])}"


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
