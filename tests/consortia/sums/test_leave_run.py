"""A participant leaves a real run: message by message played by participants, then everything that is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import APP
from passports import pins, private_pem
from typer.testing import CliRunner

from consortia.coordinator.checkpoint import load_latest
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.models.source import of_coordinator
from consortia.trust.passport.verify import check
from privacy.ledger import Ledger


def _consortia(*words: str) -> Any:
    return CliRunner().invoke(APP, list(words), env={"COLUMNS": "300"})


@pytest.mark.end_to_end
def test_a_real_run_that_somebody_left(tmp_path: Path) -> None:
    options = Options(scenario="banks", out=tmp_path / "runs")
    job = prepare(options)
    assert execute(job, options).result["status"] == "completed"
    folder, key = job.folder, tmp_path / "coordinator.key"
    state = load_latest(folder)
    assert state is not None
    sent = [one for name, one in state.memory["bank"].items() if name.startswith("used-car/sums.")]
    assert len(sent) == 3
    entries = {}
    for name, home in job.homes.items():
        with Ledger.open(home.ledger, name) as ledger:
            entries[name] = ledger.entries()
    key.write_bytes(private_pem("coordinator"))
    rows = tmp_path / "rows.csv"
    rows.write_text("duration\n12\n")
    old = of_coordinator(str(folder), "bank").model.state_dict()["network.head.weights"]
    left = _consortia("leave", str(folder), "--participant", "used-car", "--key", str(key))
    assert left.exit_code == 0, left.output
    assert check((folder / "left" / "used-car.json").read_bytes(), pins(), folder).problems == []
    at_coordinator = [file for file in folder.rglob("*") if file.is_file() and "participants" not in file.parts]
    everything = b"".join(file.read_bytes() for file in at_coordinator)
    assert not [one for one in (*sent, old) if one.numpy().tobytes()[:64] in everything]
    found = of_coordinator(str(folder), "bank")
    assert not torch.equal(found.model.state_dict()["network.head.weights"], old)
    for name, home in job.homes.items():  # nobody was asked, nobody was charged
        with Ledger.open(home.ledger, name) as ledger:
            assert ledger.entries() == entries[name]
    # What is made of it afterwards.
    models = str(tmp_path / "models")
    assert _consortia("export", str(folder), "--industry", "bank", "--no-onnx", "--to", models).exit_code == 0
    withdrawn = _consortia("export", str(folder), "--participant", "other", "--no-onnx", "--to", models)
    assert (withdrawn.exit_code, "withdrawn" in withdrawn.output) == (2, True)
    warned = _consortia("predict", str(folder), str(rows), "--participant", "other")
    assert "used-car left this run" in warned.output
    assert _consortia("report", str(folder)).exit_code == 0
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert "## Who left" in report
    assert "Since then used-car left" in report
    assert _consortia("evidence", str(folder), "--out", str(tmp_path / "evidence")).exit_code == 0
    card = "".join(file.read_text(encoding="utf-8") for file in (tmp_path / "evidence").rglob("*card*.md"))
    assert "used-car left this run" in card
    shares = _consortia("contributions", str(folder), "--json")
    assert shares.exit_code == 0
    assert "used-car" not in shares.output
    assert _consortia("explain", str(folder)).exit_code == 0
    again = _consortia("run", "--resume", str(folder))
    assert (again.exit_code, "used-car left; start a new run" in again.output) == (2, True)
