"""The scenarios of network operators: from a command to receipts, a report, predictions, and through Flower."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from own_homes import own_homes

from clients import registry
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.models.onnx_file import largest_difference, to_onnx
from consortia.models.rows import predict
from consortia.participant.own_model import from_bytes
from consortia.reports.page.facts import gather
from consortia.reports.page.render import write

pytestmark = pytest.mark.end_to_end


def test_four_operators_find_attacks_within_their_budget(tmp_path: Path) -> None:
    options = Options(scenario="intrusions", out=tmp_path, seed=1)
    outcome = execute(prepare(options), options)
    assert outcome.result["status"] == "completed"
    for name, line in outcome.result["participants"].items():
        assert line["epsilon"]["run"] <= 8, name
        assert set(line["metrics"]["auc"]) >= {"local", "control", "federated", "joined"}
        assert line["metrics"]["auc"]["federated"] > 0.75, name
        assert line["net_gain"]["low"] <= line["net_gain"]["value"] <= line["net_gain"]["high"]


@pytest.mark.long
def test_four_operators_find_attacks_of_which_they_learn_none(tmp_path: Path) -> None:
    options = Options(scenario="intrusions-unlabelled", out=tmp_path, seed=1)
    outcome = execute(prepare(options), options)
    assert outcome.result["status"] == "completed"
    for name, line in outcome.result["participants"].items():
        assert line["epsilon"]["run"] <= 8, name
        assert set(line["metrics"]) == {"auc", "auprc"}
        assert line["metrics"]["auc"]["federated"] > 0.75, name
        assert line["metrics"]["auc"]["majority"] == 0.5
        assert (line["classes"], line["local_model"], line["keeps"]) == (None, "same network", "federated")
    folder = next(tmp_path.rglob("web/**/receipt.json")).parent
    receipt = json.loads((folder / "receipt.json").read_text(encoding="utf-8"))
    assert (receipt["joining"]["second"], receipt["joining"]["federated_weight"]) == ("isolation forest", 0.5)
    assert "report.html" in [file.name for file in write(gather(outcome.job.folder, ""), tmp_path)]
    frame = registry.get("traffic").synthesise(np.random.default_rng(0), 20, "web")
    for name in ("federated", "joined"):
        model, about = from_bytes((folder / "models" / f"{name}.safetensors").read_bytes(), name)
        scores, _ = predict(model, about, frame, "rows")
        assert list(scores.columns) == ["anomaly"]
        assert scores["anomaly"].between(0, 1).all()
        assert largest_difference(to_onnx(model, about), model, about, frame) < 1e-5


def test_an_autoencoder_trains_through_flowers_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_homes("intrusions-unlabelled", tmp_path / "homes", monkeypatch, rounds=1, seed=1)
    options = Options(scenario="intrusions-unlabelled", rounds=1, seed=1, engine="flower", out=tmp_path)
    outcome = execute(prepare(options), options)
    assert outcome.result["status"] == "completed"
    assert {line["rounds_contributed"] for line in outcome.result["participants"].values()} == {1}
