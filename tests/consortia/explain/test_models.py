"""Explanations of networks, rows at home, pages and the command: exact where they say so, and no row leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from command_line import APP
from finished_run import write_result, write_run
from typer.testing import CliRunner

from clients import registry as industries
from clients.schema import Target
from consortia.common.errors import InputError
from consortia.models.explain import row
from consortia.models.explain.effects import Curve, Effect, Explanation
from consortia.models.explain.network import explain_network
from consortia.models.explain.points import points_of, reference_rows
from consortia.models.rows import view_of
from consortia.participant.own_model import About, OwnModel, keep
from consortia.reports.charts import Bar, bar_chart
from consortia.reports.explain import explain_sections, sections_of_run
from consortia.reports.page.render import page
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import build_module, state_of

BANK = About("used-car", "banks-1", "bank", "local", "", load_scenario("banks-network").contract)
VIEW = view_of(BANK)
POINTS = points_of(VIEW)


def _linear() -> OwnModel:
    generator = torch.Generator().manual_seed(3)
    slope = torch.randn(VIEW.width, 1, dtype=torch.float64, generator=generator)
    return OwnModel(industries.get("bank").schema.target, slope=slope, intercept=torch.tensor([0.3]).double())


def test_points_cover_every_feature_and_are_rows_of_the_schema() -> None:
    assert [place for one in POINTS for place in one.positions] == list(range(VIEW.width))
    rows = reference_rows(POINTS, 300, np.random.default_rng(0))
    assert np.abs(rows).max() <= 1
    frame = industries.get("bank").synthesise(np.random.default_rng(1), 300, "used-car")
    good, _ = VIEW.check(frame)
    real = VIEW.features(good)
    for one in POINTS:  # what the schema makes of rows is among the points, but for numbers between two of them
        if one.places[0] is None:
            allowed = {tuple(value) for value in one.features.astype(np.float32)}
            assert {tuple(value) for value in real[:, list(one.positions)]} <= allowed, one.column


def test_a_linear_model_falls_into_exact_parts() -> None:
    model, rows = _linear(), reference_rows(POINTS, 20, np.random.default_rng(0))
    found = row.parts_of(model, BANK, VIEW, rows)
    logits = torch.logit(model(torch.from_numpy(rows))).double().numpy()
    assert np.abs(found.start + found.parts.sum(axis=1)[:, 0] - logits).max() < 1e-4
    assert "log-odds" in found.how


def test_sampled_parts_are_whole_columns_and_add_up() -> None:
    """A score of two columns, whatever their number of features: all others get 0."""
    target = Target(name="y", kind="binary", classes=("no", "yes"))
    first, second = (next(one for one in POINTS if one.column == name) for name in ("account", "age"))

    class Product(OwnModel):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features[:, first.positions[0]] * (1 + features[:, second.positions[0]])

    model, rows = Product(target), reference_rows(POINTS, 12, np.random.default_rng(4))
    before = torch.random.get_rng_state()
    found = row.parts_of(model, BANK, VIEW, rows)
    assert torch.equal(torch.random.get_rng_state(), before)
    total = found.start + found.parts.sum(axis=1)
    assert np.abs(total[:, 0] - model(torch.from_numpy(rows)).numpy()).max() < 1e-6
    others = [place for place, one in enumerate(POINTS) if one.column not in ("account", "age")]
    assert np.abs(found.parts[:, others]).max() == 0
    assert np.abs(found.parts[:, [p for p in range(len(POINTS)) if p not in others]]).max() > 0.1


def test_a_network_ranks_the_column_that_it_goes_by_first() -> None:
    age = next(one for one in POINTS if one.column == "age")
    target = industries.get("bank").schema.target

    class ByAge(OwnModel):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(2 * features[:, age.positions[0]] + 0.1 * features[:, 0])

    effects = explain_network("bank", "gradient", VIEW, ByAge(target)).effects
    assert effects[0].column == "age"
    assert effects[0].importance > 5 * effects[1].importance
    assert effects[0].clear is None
    assert list(effects[0].curve.values) == sorted(effects[0].curve.values)
    assert all(effect.importance == 0 for effect in effects[2:])


def _finished(tmp_path: Path) -> Path:
    folder = write_run(tmp_path)
    write_result(folder)
    (folder / "model").mkdir()
    network = build_module(BANK.contract, "bank")
    safetensors.torch.save_file(state_of(network), folder / "model" / "bank.safetensors")
    return folder


def test_the_command_prints_json_and_writes_a_page(tmp_path: Path) -> None:
    folder = _finished(tmp_path)
    call = CliRunner().invoke(APP, ["explain", str(folder), "--json", "--out", str(tmp_path / "page")])
    assert call.exit_code == 0, call.output
    found = json.loads(call.output[: call.output.rindex("]") + 1])
    assert {effect["column"] for effect in found[0]["effects"]} == {one.column for one in POINTS}
    assert all(effect["clear"] is None for effect in found[0]["effects"])
    text = (tmp_path / "page" / "explain.html").read_text(encoding="utf-8")
    depth = start = 0
    for tag in re.finditer("<svg|</svg>", text):  # a chart holds others
        depth, start = (depth + 1, start if depth else tag.start()) if tag[0] == "<svg" else (depth - 1, start)
        if not depth:
            ElementTree.fromstring(text[start : tag.end()])
    assert "<script" not in text
    assert [section.title for section in sections_of_run(folder)] == ["Why: what the model of bank goes by"]


@pytest.mark.parametrize("case", ["nothing", "industry", "statistics"])
def test_what_cannot_be_explained_is_refused_in_words(tmp_path: Path, case: str) -> None:
    arguments = ["explain", str(tmp_path / "nowhere")]
    if case == "industry":
        arguments = ["explain", str(_finished(tmp_path)), "--industry", "hospital"]
    if case == "statistics":
        folder = _finished(tmp_path)
        scenario = load_scenario("banks").model_dump(mode="json", by_alias=True, exclude_none=True)
        scenario["contract"] |= {"learner": "statistics", "releases": ["statistics"], "statistics": {}}
        del scenario["contract"]["sums"]
        (folder / "scenario.json").write_text(json.dumps(scenario), encoding="utf-8")
        arguments = ["explain", str(folder)]
    call = CliRunner().invoke(APP, arguments)
    assert call.exit_code == 2
    assert "wanted" in call.output
    assert sections_of_run(tmp_path / "nowhere") == []


def test_predict_explains_at_home_and_says_how(tmp_path: Path) -> None:
    folder = _finished(tmp_path)
    home = folder / "participants" / "used-car" / "runs" / "banks-1"
    hashes = keep(home / "models", {"kept": (_linear(), BANK)})
    receipt = {"schema": 1, "models": hashes, "epsilon": {"run": 1.0, "delta": 1e-5, "unit": "record"}}
    receipt["epsilon"] |= {"non_private": False}
    (home / "receipt.json").write_text(json.dumps(receipt), encoding="utf-8")
    frame = industries.get("bank").synthesise(np.random.default_rng(1), 4, "used-car").astype(str)
    frame.loc[2, "age"] = "-5"
    frame.to_csv(tmp_path / "rows.csv", index=False)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    arguments = ["predict", str(folder), str(tmp_path / "rows.csv"), "--participant", "used-car", "--explain"]
    call = CliRunner().invoke(APP, [*arguments, "--out", str(tmp_path / "why.csv")])
    assert call.exit_code == 0, call.output
    assert "log-odds" in call.output
    table = pd.read_csv(tmp_path / "why.csv")
    own = [name for name in table if name.endswith(" to p(bad)")]
    assert [name.removesuffix(" to p(bad)") for name in own] == [one.column for one in POINTS]
    assert table.loc[2].drop("row").isna().all()
    logits = np.log(table["p(bad)"] / (1 - table["p(bad)"]))
    total = table["start of p(bad)"] + table[own].sum(axis=1)
    assert np.abs(logits - total)[[0, 1, 3]].max() < 1e-3
    # What is said of rows is kept nowhere but where it was asked for.
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    model = OwnModel(industries.get("bank").schema.target, network=build_module(BANK.contract, "bank"))
    with pytest.raises(InputError, match=r"consortia\[explain\]"):
        row.parts_of(model, BANK, VIEW, reference_rows(POINTS, 2, np.random.default_rng(0)))


def test_grey_bars_are_grey_and_have_no_curve() -> None:
    curve = Curve(("no", "yes"), (None, None), (0.0, 0.1), (-0.1, 0.0), (0.1, 0.2))
    effects = (
        Effect("clear & <b>", "", "p(y)", 0.5, 0.3, 0.7, curve),
        Effect("grey", "", "p(y)", 0.1, 0.0, 0.4, curve),
    )
    text = page("Why", explain_sections([Explanation("made", "sums", ("Words.",), effects)]))
    assert text.count('class="bar unclear"') == text.count('class="bar c0"') == 1
    assert "Effect of grey" not in text
    assert "Effect of clear" in text
    assert "<b>" not in text
    assert str(bar_chart("t", "x", [])) == ""
    assert "bar c0" in str(bar_chart("t", "x", [Bar("zero", 0.0)]))
