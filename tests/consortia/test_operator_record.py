"""A run's record on its coordinator's pages: numbers and our own words come through, a participant's text never."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dashboard_pages import TOKEN, signed

from consortia.dashboard.app import build
from consortia.dashboard.coordinator import CoordinatorView
from consortia.reports.live_runs import Run
from consortia.reports.operator_record import told
from consortia.terms.scenario import load_scenario

PLANTED = "lovelace"
GAIN = {"value": 0.0321, "low": 0.0123, "high": 0.0456}


def _line(planted: Any = "") -> dict[str, Any]:
    """A line of a simulation's record; with `planted` it stands wherever a text may stand."""
    values = {"local": 0.7, "control": 0.71, "federated": 0.72, "joined": 0.7421}
    return {
        "industry": planted or "bank",
        "state": planted or "ACTIVE",
        "metrics": {"auc": values, **({planted: values} if planted else {})},
        "headline": planted or "auc",
        "epsilon": {"run": 3.0, "budget": 3.0, "delta": 1e-5, "non_private": False, "unit": planted, "runs_left": 3},
        "net_gain": dict(GAIN),
        "gain": dict(GAIN),
        "units": {"test": 30},
        "role": planted,
        "keeps": planted,
        "local_model": planted,
        "quarantine": {"rows_read": 3, "rows_kept": 2, "reasons": {planted: 1}},
        "drift": {"stale": [planted], "psi": {planted: 1.0}},
        "forecast": {"verdict": planted},
        "failures": [{"round": 1, "code": planted, "detail": planted}],
    }


def _record(observer: str = "simulation", planted: Any = "") -> dict[str, Any]:
    lines = {participant.name: _line(planted) for participant in load_scenario("banks-network").roster}
    return {
        "run_id": planted,
        "scenario": planted,
        "status": "completed",
        "reason": planted,
        "observer": observer,
        "synthetic": True,
        "charged": True,
        "rounds": 2,
        "participants": lines,
    }


def _folder(tmp_path: Path, record: Any) -> Path:
    folder = tmp_path / "run-1"
    folder.mkdir(parents=True)
    (folder / "scenario.json").write_text(load_scenario("banks-network").to_json())
    (folder / "events.jsonl").write_text("")
    (folder / "result.json").write_text(json.dumps(record))
    return folder


def test_a_simulations_page_begins_with_the_paragraph_and_the_net_gains(tmp_path: Path) -> None:
    _folder(tmp_path, _record())
    text = signed(build(CoordinatorView(tmp_path, None), TOKEN), "/runs/run-1").text
    assert "Joining paid clearly for " in text
    assert "It is a simulation by one operator who holds all rows, which are synthetic." in text
    assert '+0.032 <span class="ends">[+0.012, +0.046]' in text
    assert text.index("Joining paid clearly") < text.index("Net gain in AUC") < text.index("<table>")
    assert "5 clearly, 0 perhaps, 0 not" in signed(build(CoordinatorView(tmp_path, None), TOKEN), "/").text


@pytest.mark.parametrize("observer", ["simulation", "coordinator", PLANTED])
def test_no_text_of_a_record_comes_through(tmp_path: Path, observer: str) -> None:
    folder = _folder(tmp_path, _record(observer, PLANTED))
    assert PLANTED in (folder / "result.json").read_text()
    assert PLANTED not in json.dumps(told(Run(folder)))
    app = build(CoordinatorView(tmp_path, None), TOKEN)
    for path in ("/", "/runs/run-1", "/runs/run-1/other", "/compare?run=run-1", "/participants", "/metrics"):
        assert PLANTED not in signed(app, path).text, path


@pytest.mark.parametrize("place", ["net_gain", "metrics", "epsilon"])
def test_a_text_in_place_of_a_number_leaves_the_record_out(tmp_path: Path, place: str) -> None:
    record = _record()
    line = record["participants"]["other"]
    target = {"net_gain": line["net_gain"], "metrics": line["metrics"]["auc"], "epsilon": line["epsilon"]}[place]
    target["run" if place == "epsilon" else "value" if place == "net_gain" else "joined"] = PLANTED
    assert told(Run(_folder(tmp_path, record))) is None


@pytest.mark.parametrize("record", [[], {}, {"status": "completed"}, "text", {"participants": 3}])
def test_a_malformed_record_is_none(tmp_path: Path, record: Any) -> None:
    assert told(Run(_folder(tmp_path, record))) is None


def _measured(tmp_path: Path, counts: Any) -> Path:
    """A run whose contract tells the final model's metrics apart by age, with the counts of one participant."""
    record = _record("coordinator")
    told_ = {"column": PLANTED, "names": [PLANTED] * 3, "counts": counts, "deviation": 0.5, "rows_per_unit": 1}
    record["participants"]["used-car"]["groups"] = told_
    folder = _folder(tmp_path, record)
    scenario = json.loads((folder / "scenario.json").read_text())
    scenario["contract"]["releases"] = ["update", "metrics"]
    scenario["contract"]["evaluation"] = {"metrics": "dp", "groups": {"bank": {"column": "age", "cuts": [30, 90]}}}
    (folder / "scenario.json").write_text(json.dumps(scenario))
    return folder


def test_a_runs_page_shows_groups_only_where_they_were_measured(tmp_path: Path) -> None:
    counts = np.zeros((3, 2, 24))
    counts[0, :, [4, 18]], counts[1, :, [4, 18]], counts[2, 0, 4] = [[60, 20], [40, 80]], [[90, 50], [10, 50]], 3
    folder = _measured(tmp_path, counts.tolist())
    app = build(CoordinatorView(tmp_path, None), TOKEN)
    text = signed(app, "/runs/run-1").text
    assert "<h2>Fairness: bank by age, positive from a score of 0.5 on</h2>" in text
    assert PLANTED not in text
    assert "age &lt; 30" in text
    assert "0.800 [" in text
    assert text.count("too few: not shown") == 1
    assert "differs" in text
    (folder / "result.json").write_text(
        json.dumps({**json.loads((folder / "result.json").read_text()), "left": {"other": {"industry": "bank"}}})
    )
    assert "positive from a score" not in signed(app, "/runs/run-1").text
    _folder(tmp_path / "plain", _record())
    assert (
        "positive from a score"
        not in signed(build(CoordinatorView(tmp_path / "plain", None), TOKEN), "/runs/run-1").text
    )


def test_counts_by_group_of_another_form_leave_the_record_out(tmp_path: Path) -> None:
    for place, counts in enumerate(([[1.0]], [[["nan"] * 24] * 2] * 3, PLANTED)):
        assert told(Run(_measured(tmp_path / str(place), counts))) is None
