"""Several classes, regression, and units of several rows, from a partner's industry to the receipt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clients import registry
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from privacy.ledger import Ledger

CLIENT = """
import numpy as np
import pandas as pd
from clients.industry import IndustryClient
from clients.schema import Column, Schema, Target

COLUMNS = (
    Column(name="machine", dtype="text", identifier="hash", nullable=True, required=False),
    Column(name="heat", dtype="number", low=0, high=10),
    Column(name="speed", dtype="number", low=0, high=10),
    Column(name="worn", dtype="flag"),
)

def made(generator, rows, kind):
    heat, speed = generator.uniform(0, 10, (2, rows))
    worn = generator.integers(0, 2, rows)
    value = heat + 0.5 * speed + 3 * worn + generator.normal(0, 1, rows)
    frame = pd.DataFrame({"machine": [f"m{i // 3}" for i in range(rows)], "heat": heat, "speed": speed, "worn": worn})
    frame["y"] = np.clip(value, 0, 20) if kind == "number" else np.array(["low", "middle", "high"])[
        np.digitize(value, [6, 11])]
    return frame

def client(name, target, metrics, kind):
    return IndustryClient(
        name=name, title=name, schema=Schema(name=name, version=1, columns=COLUMNS, target=target),
        read=lambda folder, site: None, sites=("one", "two"), dataset=name, metrics=metrics,
        synthesise=lambda generator, rows, site: made(generator, rows, kind), default_rows=300,
    )

CLASSES = client(
    "mill_classes", Target(name="y", kind="multiclass", classes=("low", "middle", "high")), ("accuracy",), "class"
)
NUMBER = client("mill_number", Target(name="y", kind="regression", low=0, high=20), ("rmse",), "number")
"""
POINTS = "[consortia.clients]\nmill_classes = mills:CLASSES\nmill_number = mills:NUMBER\n"
EXPECTED = {"mill_classes": "[0.2, 0.5, 0.3]", "mill_number": "9.0"}


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A partner's wheel with two industries, and a scenario with two mills of each."""
    site = tmp_path / "site"
    (site / "mills-1.0.dist-info").mkdir(parents=True)
    (site / "mills.py").write_text(CLIENT, encoding="utf-8")
    (site / "mills-1.0.dist-info" / "METADATA").write_text("Name: mills\nVersion: 1.0\n", encoding="utf-8")
    (site / "mills-1.0.dist-info" / "entry_points.txt").write_text(POINTS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(site))
    lines = ['schema = 1\nname = "mills"\ntitle = "Mills"\n[contract]\nschema = 1\nwire = 1\nlearner = "sums"']
    lines.append(f"[contract.sums]\nprevalence = {{ {', '.join(f'{k} = {v}' for k, v in EXPECTED.items())} }}")
    lines += [f"[contract.industries.{name}]" for name in EXPECTED]
    policies = tmp_path / "policies" / "mills"
    policies.mkdir(parents=True)
    for industry in EXPECTED:
        for place in ("one", "two"):
            name = f"{industry.replace('_', '-')}-{place}"
            lines.append(
                f'[[roster]]\nname = "{name}"\nindustry = "{industry}"\ndataset = "rows"\nsite = "{place}"\n'
                "units = 200\nepsilon = 4.0\ndelta = 1e-05"
            )
            (policies / f"{name}.toml").write_text(
                f'schema = 1\nparticipant = "{name}"\ndemo = true\n[dataset.rows]\nindustry = "{industry}"\n'
                f'source = "synthetic:600?seed={len(lines)}"\nsite = "{place}"\nunit = "machine"\n'
                "declared_units = 200\n[budget]\nrun = { epsilon = 4.0, delta = 1e-05 }\n"
                'lifetime = { epsilon = 8.0, delta = 4e-05 }\n[allow]\nreleases = ["sums"]\ncontracts = "any"\n',
                encoding="utf-8",
            )
    file = tmp_path / "mills.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.mark.end_to_end
def test_classes_and_numbers_by_machine(scenario: Path, tmp_path: Path) -> None:
    assert {"mill_classes", "mill_number"} <= set(registry.names())
    options = Options(scenario=str(scenario), out=tmp_path / "runs")
    outcome = execute(prepare(options), options)
    assert outcome.result["status"] == "completed"
    assert len(outcome.result["participants"]) == 4
    for name, home in outcome.job.homes.items():
        receipt: dict[str, Any] = json.loads(
            (home.folder / "runs" / outcome.job.run_id / "receipt.json").read_text(encoding="utf-8")
        )
        (values,) = receipt["metrics"].values()
        if receipt["headline"] == "accuracy":
            assert values["federated"] > values["majority"] + 0.15
        else:
            assert values["federated"] < values["majority"] / 2
        assert receipt["epsilon"]["unit"] == "machine"
        with Ledger.open(home.ledger, name) as ledger:
            events = [event for entry in ledger.entries() for event in entry.events]
        assert {event.unit for event in events} == {"machine"}
        assert len(events) == 3
