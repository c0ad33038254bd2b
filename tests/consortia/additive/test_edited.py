"""A model whose shapes its participant edits by hand: it predicts with them, and it never leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import APP
from typer.testing import CliRunner

from clients import registry as industries
from consortia.common.errors import InputError
from consortia.learners.additive.model import SHAPES, START
from consortia.models import edited, registry
from consortia.models.source import check_leaves, of_participant
from consortia.participant.own_model import FEDERATED, About, OwnModel, keep
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import build_module

TORQUE = "Torque [Nm]"


def _finished(folder: Path, scenario: str = "factories", industry: str = "factory") -> str:
    """Write what a finished run leaves at the participant `high`; return the run's folder."""
    run = folder / "run-1"
    contract = load_scenario(scenario).contract
    network = build_module(contract, industry)
    generator = torch.Generator().manual_seed(3)
    for name, tensor in network.state_dict().items():
        if name in (SHAPES, START):
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
    home = run / "participants" / "high" / "runs" / "run-1"
    about = About("high", "run-1", industry, FEDERATED, "", contract)
    hashes = keep(home / "models", {FEDERATED: (OwnModel(industries.get(industry).schema.target, network), about)})
    epsilon = {"run": 3.0, "delta": 1e-5, "unit": "record", "non_private": False}
    (home / "receipt.json").write_text(json.dumps({"schema": 1, "models": hashes, "epsilon": epsilon}))
    return str(run)


@pytest.fixture
def run(tmp_path: Path) -> str:
    return _finished(tmp_path)


def _raised(table: pd.DataFrame, by: float = 0.5) -> pd.DataFrame:
    """Return the table with the first two cells of the torque raised."""
    places = table.index[table["column"] == TORQUE][:2]
    out = table.copy()
    out.loc[places, "adds"] += by
    return out


def test_an_edited_model_has_the_numbers_of_the_table_and_no_others(run: str) -> None:
    table = edited.shapes_of(run, "high")
    said = edited.edit(run, "high", _raised(table))
    assert len(said) == 2
    assert said[0].startswith(f"{TORQUE}, ")
    before, after = (of_participant(run, "high", choice).model for choice in (FEDERATED, "edited"))
    assert before.network is not None
    assert after.network is not None
    was, now = before.network.state_dict(), after.network.state_dict()
    moved = now[SHAPES] - was[SHAPES]
    assert int((moved != 0).sum()) == 2
    assert moved.max() == pytest.approx(0.5)
    assert torch.equal(was[START], now[START])
    features = len(industries.get("factory").schema.feature_names)
    rows = torch.rand(200, features, generator=torch.Generator().manual_seed(1)) * 2 - 1
    score = torch.logit(after(rows).double()) - torch.logit(before(rows).double())
    hit = score.abs() > 1e-3
    assert 0 < int(hit.sum()) < 200
    assert torch.allclose(score[hit], torch.tensor(0.5, dtype=torch.float64), atol=1e-3)
    # Another edit starts from the model as it came.
    edited.edit(run, "high", _raised(table, by=-0.25))
    third = of_participant(run, "high", "edited").model.network
    assert third is not None
    assert (third.state_dict()[SHAPES] - was[SHAPES]).min() == pytest.approx(-0.25)


def test_an_edited_model_is_marked_and_never_leaves(run: str, tmp_path: Path) -> None:
    edited.edit(run, "high", _raised(edited.shapes_of(run, "high")))
    found = of_participant(run, "high", "edited")
    assert (found.about.kind, found.guarantee["non_private"]) == ("edited by hand", True)
    assert "edited by hand" in found.guarantee["reason"]
    for leave in (check_leaves, lambda one: registry.register(tmp_path / "models", "high", one, None)):
        with pytest.raises(InputError, match="never leaves"):
            leave(found)
    result = CliRunner().invoke(APP, ["export", run, "--participant", "high", "--model", "edited"])
    assert result.exit_code == 2
    assert of_participant(run, "high", "").about.kind == FEDERATED  # what may leave is as it was
    file = Path(run) / "participants/high/runs/run-1/models/edited.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(InputError, match="altered"):
        of_participant(run, "high", "edited")


def test_by_the_command_line_and_back(run: str, tmp_path: Path) -> None:
    table, app = tmp_path / "shapes.csv", APP
    common = ["edit", run, "--participant", "high"]
    assert CliRunner().invoke(app, [*common, "--out", str(table)]).exit_code == 0
    assert CliRunner().invoke(app, [*common, str(table)]).exit_code == 2  # as it came
    _raised(pd.read_csv(table, keep_default_na=False)).to_csv(table, index=False)
    result = CliRunner().invoke(app, [*common, str(table)])
    assert result.exit_code == 0, result.output
    assert "--model edited" in result.output
    assert CliRunner().invoke(app, common).exit_code == 2


@pytest.mark.parametrize("fault", ["a line less", "another order", "not a number", "infinite", "no column"])
def test_another_table_is_refused(run: str, fault: str) -> None:
    table = _raised(edited.shapes_of(run, "high")).astype({"adds": object})
    if fault == "a line less":
        table = table.iloc[1:]
    elif fault == "another order":
        table = table.iloc[::-1]
    elif fault == "no column":
        table = table.drop(columns="adds")
    else:
        table.loc[4, "adds"] = {"not a number": "much", "infinite": "inf"}[fault]
    with pytest.raises(InputError, match="shapes"):
        edited.edit(run, "high", table)
    with pytest.raises(InputError, match="--model: wanted one of federated in this run"):
        of_participant(run, "high", "edited")


def test_other_learners_have_no_shapes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="learner 'additive'"):
        edited.shapes_of(_finished(tmp_path, "banks", "bank"), "high")
