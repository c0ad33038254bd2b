"""A vertical run on real Flower processes and in containers: the same steps, and nothing readable at the
coordinator."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import APP
from federation import ROOT, Federation, engine
from typer.testing import CliRunner

from clients import holdings
from clients.sources import parse_source
from consortia.vertical import stacking

NAMES = ("bank", "hospital", "factory")


def _secrets(homes: Path, run_id: str) -> dict[str, list[bytes]]:
    """Return what the coordinator must never hold, by kind: identifiers in every spelling, rows, scores, labels."""
    found: dict[str, list[bytes]] = {"identifiers": [], "rows": [], "kept at home": []}
    case = holdings.get("customers")
    for name in NAMES:
        frame = case.frame(parse_source("synthetic:4000"), name, 0)
        for text in frame["national_id"].head(300):
            found["identifiers"] += [t.encode() for t in {text.strip(), holdings.normalise(text)} if t]
        rows = case.holding(name).encode(frame)
        found["rows"] += [rows.features[i : i + 4].tobytes() for i in range(0, 400, 4)]
        kept = homes / name / "runs" / run_id / "vertical-0"
        for file in ("codes", "labels", "theirs", "matched", "power", "order", "session.key"):
            if (kept / file).is_file():
                found["kept at home"].append((kept / file).read_bytes()[:64])
        found["kept at home"].append((homes / name / "identity.key").read_bytes())
    return found


def _assert_unreadable(haystack: bytes, homes: Path, run_id: str) -> None:
    for kind, needles in _secrets(homes, run_id).items():
        assert len(needles) > 5
        assert [n for n in needles if n in haystack] == [], kind


@pytest.mark.end_to_end
def test_a_vertical_run_embedded_to_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "_STACKERS", {"logistic": stacking._STACKERS["logistic"]})
    small = tmp_path / "small.toml"
    text = (ROOT / "scenarios" / "shared-heart.toml").read_text(encoding="utf-8")
    small.write_text(text.replace('name = "shared-heart"', 'name = "small"'), encoding="utf-8")
    policies = tmp_path / "policies" / "small"
    policies.mkdir(parents=True)
    for name in ("insurer", "hospital"):
        policy = (ROOT / "scenarios" / "policies" / "shared-heart" / f"{name}.toml").read_text(encoding="utf-8")
        policy = policy.replace("synthetic:920", "synthetic:400").replace('"boosting", "stumps"', '"logistic"')
        (policies / f"{name}.toml").write_text(policy, encoding="utf-8")
    app, runner = APP, CliRunner()
    checked = runner.invoke(app, ["check", str(small), "--json"])
    assert checked.exit_code == 0, checked.output
    assert [line["role"] for line in json.loads(checked.output)["participants"]] == ["label owner", "partner"]
    done = runner.invoke(app, ["run", str(small), "--epsilon", "1", "--out", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    for words in ("joins", "synthetic", "change one label", "not charged", "disclosed to the label owner"):
        assert words in done.output.replace("stays alone", "joins"), words
    (folder,) = (tmp_path / "runs").glob("small-*")
    result = json.loads((folder / "result.json").read_text())
    assert result["participants"]["insurer"]["epsilon"]["run"] == 1.0
    assert result["participants"]["insurer"]["decision"]["margin"] == stacking.MARGIN
    assert runner.invoke(app, ["run", str(small), "--epsilon", "0"]).exit_code == 2


@pytest.mark.long
@pytest.mark.end_to_end
def test_a_vertical_run_on_flower_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = tmp_path / "homes"
    monkeypatch.setenv("CONSORTIA_HOME", str(homes))
    app, runner = APP, CliRunner()
    made = runner.invoke(app, ["budget", "init", "--scenario", "shared-customers"])
    assert made.exit_code == 0, made.output
    done = runner.invoke(
        app,
        ["run", "shared-customers", "--engine", "flower", "--batches", "0", "--out", str(tmp_path / "runs"), "--json"],
    )
    assert done.exit_code == 0, done.output
    (folder,) = (tmp_path / "runs").glob("shared-customers-*")
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "completed"
    assert result["observer"] == "coordinator"
    account = result["participants"]["bank"]["epsilon"]
    assert (account["run"], account["delta"], account["unit"]) == (2.0, 0.0, "record")
    assert result["participants"]["hospital"]["epsilon"]["non_private"] is True
    assert all(participant["metrics"] == {} for participant in result["participants"].values())
    receipt = json.loads((homes / "bank" / "runs" / result["run_id"] / "receipt.json").read_text())
    assert receipt["decision"]["joins"] is True
    # What Flower and the coordinator have stored: the SuperLink's state, logs, events, records.
    stored = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    assert len(stored) > 20_000
    _assert_unreadable(stored, homes, result["run_id"])
    # New persons are scored later, by other processes.
    scored = homes / "bank" / "runs" / result["run_id"] / "scored-1.csv"
    assert not scored.exists()
    later = runner.invoke(app, ["run", "--resume", str(folder), "--engine", "flower", "--batches", "1", "--json"])
    assert later.exit_code == 0, later.output
    assert len(scored.read_text(encoding="utf-8").splitlines()) > 500
    assert json.loads((folder / "result.json").read_text())["participants"]["bank"]["epsilon"] == account
    # The label message is spent for life: the same scenario again is refused by its partners, by code.
    again = runner.invoke(app, ["run", "shared-customers", "--engine", "flower", "--out", str(tmp_path / "again")])
    assert again.exit_code == 1
    assert "INTERSECTIONS_EXHAUSTED" in again.output or "LABEL_MESSAGES_EXHAUSTED" in again.output


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    if reason := engine():
        pytest.skip(reason)
    made = Federation.of("shared-customers", tmp_path_factory.mktemp("shared"))
    try:
        yield made
    finally:
        made.down()


@pytest.mark.containers
def test_three_organisations_in_containers(federation: Federation) -> None:
    federation.env["CONSORTIA_BATCHES"] = "0"
    done = federation.up()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (record,) = federation.records()
    assert record["status"] == "completed"
    steps = ["hello", "blind", "match", "label", "assist", "stack"]
    assert [line["step"] for line in record["history"]] == steps
    homes = federation.own / "homes"
    scored = homes / "bank" / "runs" / record["run_id"] / "scored-1.csv"
    assert not scored.exists()
    # The federation stays up; new persons are scored later, for no other charge.
    before = federation.started()
    federation.env |= {"CONSORTIA_RESUME": record["run_id"], "CONSORTIA_BATCHES": "1"}
    later = federation.up()
    assert later.returncode == 0, later.stdout[-3000:] + later.stderr[-3000:]
    assert federation.started() == before
    (again,) = federation.records()
    assert [(line["batch"], line["step"]) for line in again["history"]] == [(b, s) for b in (0, 1) for s in steps]
    assert again["participants"]["bank"]["epsilon"] == record["participants"]["bank"]["epsilon"]
    with scored.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 500
    assert np.isfinite([float(row["score"]) for row in rows]).all()
    # All that the coordinator stores or shows: its database with every message that it still has, runs, logs.
    state = federation.compose("cp", "superlink:/state", str(federation.own / "state"))
    assert state.returncode == 0, state.stderr
    seen = b"".join(
        f.read_bytes() for part in ("state", "runs") for f in (federation.own / part).rglob("*") if f.is_file()
    )
    for service in ("superlink", "superexec", "proxy", "runner"):
        logs: subprocess.CompletedProcess[str] = federation.compose("logs", "--no-color", service)
        seen += logs.stdout.encode()
    assert len(seen) > 20_000
    _assert_unreadable(seen, homes, record["run_id"])
