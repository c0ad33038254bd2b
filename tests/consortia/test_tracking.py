"""Trackers get released values only, are checked before a run starts, and never end one."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from finished_run import write_run
from packages import Packages
from typer.testing import CliRunner, Result

from consortia.common.errors import InputError, RunFailedError
from consortia.common.pki import make_authority, write_server
from consortia.coordinator.event_file import EventFile
from consortia.deploy import runner
from consortia.engines.base import Job
from consortia.reports import trackers, tracking
from consortia.reports.live_runs import Run
from consortia.reports.trackers import TrackedRun, Value
from consortia.reports.tracking import Tracking, values
from consortia.terms.scenario import load_scenario


def _call(*arguments: object) -> Result:
    return CliRunner().invoke(APP, [str(a) for a in arguments], env={"COLUMNS": "200"})


class _Recorder:
    def __init__(self, run: TrackedRun) -> None:
        self.got: list[Value] = []
        self.closed = ""
        _Recorder.last = self

    last: _Recorder

    def write(self, new: list[Value]) -> None:
        self.got += new

    def close(self, status: str) -> None:
        self.closed = status


class _Broken:
    def __init__(self, run: TrackedRun) -> None:
        raise OSError("the disk of Lovelace")


def _known(monkeypatch: pytest.MonkeyPatch, **found: Any) -> None:
    monkeypatch.setattr(trackers, "get", lambda name: found[name])


def test_every_value_goes_once_and_with_its_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path)
    monkeypatch.setattr(tracking, "_EVERY_SECONDS", 0.01)
    _known(monkeypatch, recorder=_Recorder)
    with Tracking(folder, ["recorder"], print):
        pass
    got = _Recorder.last.got
    assert len(got) == len({(each.name, each.round) for each in got})
    names = {each.name for each in got}
    assert {
        "round seconds",
        "validation auc/used-car",
        "validation auc 95 low/used-car",
        "bytes sent/used-car",
    } <= names
    spent = [each.value for each in got if each.name == "epsilon of the run at delta 1e-05 per record/used-car"]
    assert len(spent) == 3
    assert spent == sorted(spent)
    assert "Lovelace" not in str(got)


def test_a_tracker_that_fails_is_named_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _known(monkeypatch, broken=_Broken, recorder=_Recorder)
    said: list[str] = []
    with Tracking(write_run(tmp_path), ["broken", "recorder"], said.append):
        pass
    assert said == ["--track broken: OSError; this run is no longer tracked there"]
    assert _Recorder.last.got
    assert _Recorder.last.closed


def test_what_cannot_be_tracked_is_refused_before_a_run_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = _call("run", "linear", "--track", "wandb", "--out", tmp_path)
    assert result.exit_code == 2
    assert "wanted one of tensorboard, mlflow, otel" in result.output
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.delitem(sys.modules, "consortia.reports.trackers.mlflow", raising=False)
    with pytest.raises(InputError, match=r"consortia\[track\]"):
        trackers.chosen("tensorboard,mlflow")
    assert list(tmp_path.iterdir()) == []


LINES = """
class Lines:
    def __init__(self, run):
        self.file = run.folder / "lines.txt"
    def write(self, new):
        with self.file.open("a") as file:
            file.writelines(f"{each.round} {each.name} {each.value}\\n" for each in new)
    def close(self, status):
        with self.file.open("a") as file:
            file.write(status)
"""
POINTS = "[consortia.trackers]\nlines = partner_lines:Lines\n"


def test_a_package_brings_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Packages(tmp_path / "site", monkeypatch).install("partner", POINTS, partner_lines=LINES)
    assert "partner_lines" not in sys.modules
    folder = write_run(tmp_path)
    with Tracking(folder, trackers.chosen("lines,lines"), print):
        pass
    *lines, status = (folder / "lines.txt").read_text().splitlines()
    assert status == "running"
    assert any(line.startswith("1 replies ") for line in lines)
    assert len(lines) == len(set(lines))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            ("class Lines", "import lines_library\n\nclass Lines"),
            "tracker 'lines' of partner cannot .*lines_lib",
        ),
        (("def write", "def send"), "tracker 'lines' of partner: wanted Lines.write, got none"),
    ],
)
def test_a_broken_package_is_refused_before_a_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], told: str
) -> None:
    Packages(tmp_path / "site", monkeypatch).install("partner", POINTS, partner_lines=LINES.replace(*change))
    result = _call("run", "linear", "--track", "lines", "--out", tmp_path / "runs")
    assert result.exit_code == 2
    assert re.search(told, result.output.replace("\n", ""))
    assert not (tmp_path / "runs").exists()
    assert trackers.chosen("") == []


def test_a_package_that_fails_in_a_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = LINES.replace("with self", "1 / 0\n        with self", 1)
    Packages(tmp_path / "site", monkeypatch).install("partner", POINTS, partner_lines=code)
    said: list[str] = []
    with Tracking(write_run(tmp_path), ["lines"], said.append):
        pass
    assert said == ["--track lines of partner: ZeroDivisionError; this run is no longer tracked there"]


def test_the_runner_of_a_federation_tracks_what_its_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "RUNS", tmp_path)
    monkeypatch.setenv("CONSORTIA_TRACK", "tensorboard,wandb")
    assert runner.main(["linear"]) == 2
    assert "wanted one of tensorboard, mlflow, otel, got 'wandb'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []  # refused before anything starts

    def follow(job: Job, control: object) -> None:
        event = EventFile(job.folder, job.run_id)
        event("start", rounds=1, done=0)
        event("round", round=1, seconds=0.5, replies=[])
        raise RunFailedError("nobody answers")

    monkeypatch.setattr(runner, "follow", follow)
    _known(monkeypatch, recorder=_Recorder)
    monkeypatch.setenv("CONSORTIA_TRACK", "recorder")
    keys = tmp_path / "keys"
    write_server(keys, make_authority("a test", 1), ("localhost",), 1)
    monkeypatch.setattr(runner, "KEYS", keys)
    assert runner.main(["linear"]) == 1
    assert Value("round seconds", 1, 0.5) in _Recorder.last.got
    assert _Recorder.last.closed


def test_the_last_event_is_waited_for_where_a_record_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path)
    _known(monkeypatch, recorder=_Recorder)
    with Tracking(folder, ["recorder"], print):
        (folder / "coordinator.json").write_text('{"participants": {}}')
        last = EventFile(folder, folder.name)
        late = threading.Timer(0.1, lambda: last("end", status="completed", reason=""))
        late.start()
    late.join()
    assert _Recorder.last.closed == "completed"


@pytest.mark.end_to_end
@pytest.mark.filterwarnings("ignore")  # SQLAlchemy 2.1 warns of what MLflow uses
def test_both_trackers_hold_what_was_released_and_nothing_planted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = write_run(tmp_path)
    with Tracking(folder, ["tensorboard", "mlflow"], pytest.fail):
        pass
    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    assert [point.value for point in board.Scalars("validation auc/used-car")] == pytest.approx([0.7] * 3)
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        rows = store.execute("SELECT step, value FROM metrics WHERE key = 'round seconds' ORDER BY step").fetchall()
        (sha256,) = store.execute("SELECT value FROM params WHERE key = 'contract_sha256'").fetchone()
    assert rows == [(1, 0.25), (2, 0.25), (3, 0.25)]
    assert sha256 == load_scenario("banks-network").contract.sha256()
    assert set(values(Run(folder), epsilon=True)) == set()  # a reader that has not looked knows nothing
    stored = b"".join(
        file.read_bytes() for file in tmp_path.rglob("*") if file.name != "events.jsonl" and file.is_file()
    )
    assert b"Lovelace" not in stored
    assert b"Lovelace" in (folder / "events.jsonl").read_bytes()
    assert json.loads((folder / "events.jsonl").read_text().splitlines()[0])["event"] == "start"
