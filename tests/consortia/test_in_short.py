"""What `make run` ends in: one paragraph on each of the two records. Several scenarios in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from typer.testing import CliRunner

from consortia.reports.decision import decide
from consortia.reports.in_short import paragraph


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


@pytest.mark.parametrize(
    "option", [["--json"], ["--dump", "x"], ["--resume", "x"], ["--top-up", "x"], ["--batches", "1"]]
)
def test_several_scenarios_take_no_option_of_one_run(option: list[str]) -> None:
    result = CliRunner().invoke(APP, ["run", "linear", "banks", *option])
    assert result.exit_code == 2
    assert "wanted one scenario with these, got 2" in " ".join(result.output.split())


@pytest.mark.end_to_end
def test_several_scenarios_end_in_one_paragraph(tmp_path: Path) -> None:
    done = CliRunner().invoke(APP, ["run", "linear", "linear-fedsgd", "--rounds", "1", "--out", str(tmp_path)])
    assert len(list(tmp_path.glob("*/result.json"))) == 2, done.output
    text = " ".join(done.output.split())
    assert text.count("In short: ") == 1
    assert text.index("In short: linear: ") < text.index(" linear-fedsgd: ", text.index("In short: "))


@pytest.mark.end_to_end
def test_nothing_is_run_where_a_later_scenario_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(APP, ["run", "linear", "no-such-one", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert not list(tmp_path.iterdir())
