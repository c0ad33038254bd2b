"""Importance, curves and rows of a model of shape functions: exact, and grey where chance could have made them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from command_line import APP
from numpy.typing import NDArray
from targets import SUMMED, TARGETS
from typer.testing import CliRunner

from clients import registry as industries
from clients.schema import Column, Schema
from consortia.learners.additive.attribution import margins, norms, scatter
from consortia.learners.additive.model import NOISE, PART, SHAPES, START, Recipe, recipe_of
from consortia.learners.blocks.noise import solve
from consortia.learners.blocks.recipe import Opened
from consortia.learners.blocks.rows import Rows
from consortia.learners.blocks.shares import Shares
from consortia.models.explain.additive import cell_parts, explain_additive
from consortia.models.explain.network import explain_network
from consortia.models.explain.points import points_of, reference_rows
from consortia.models.explain.row import parts_of
from consortia.models.explain.run import _units
from consortia.models.rows import view_of
from consortia.participant.own_model import FEDERATED, About, OwnModel, keep
from consortia.reports.explain import sections_of_run, shape_charts
from consortia.terms.additive import AdditiveTerms
from consortia.terms.recipe import additive_recipe
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import State, build_module, state_of

Array = NDArray[np.float64]
PAIRED = {"pairs": (("shuffled", "idle"),), "monotone": {"planted": "up", "shuffled": "up"}}
CHANCE = {"shuffled", "idle", "colour", "flag", "shuffled x idle"}


def _schema(kind: str) -> Schema:
    numbers = (Column(name=name, dtype="number", low=0, high=8, nullable=name == "idle") for name in
               ("planted", "shuffled", "idle"))  # fmt: skip
    colour = Column(name="colour", dtype="category", categories=("red", "green", "blue"))
    return Schema(
        name="made", version=1, columns=(*numbers, colour, Column(name="flag", dtype="flag")), target=TARGETS[kind]
    )


def _rows(kind: str, count: int, generator: np.random.Generator, *, planted: float = 3.0) -> Rows:
    x = reference_rows(points_of(_schema(kind)), count, generator)
    score = planted * x[:, 0] + generator.logistic(size=count)
    if kind == "regression":
        y: Array = np.clip(10 + 3 * score, -10, 30)
    else:
        y = np.digitize(score, [0.0] if kind == "binary" else [-1.0, 1.0])
    return Rows(torch.from_numpy(x), torch.from_numpy(y), torch.arange(count))


def _recipe(kind: str, rounds: int = 20, **changes: Any) -> Recipe:
    shares = AdditiveTerms(boosting_rounds=rounds).shares
    return recipe_of(_schema(kind), shares, **{"bins": 16, "pair_bins": 6, "clip": 0.5, **changes})


def _fitted(rule: Recipe, rows: Rows, z: float, generator: np.random.Generator) -> State:
    """Return the model after all messages; the noise is plain, for the mathematics alone."""
    state = dict(rule.build(TARGETS[rule.outcome.kind]).state_dict())
    for message in range(1, rule.shares.messages + 1):
        (sums,) = rule.exact(message, rows, state)
        deviation = rule.sensitivities(message)[0] * z * math.sqrt(rule.shares.messages)
        noisy = sums + generator.normal(size=sums.shape) * deviation
        state |= rule.advanced(message, state, Opened((noisy,), (deviation,), len(rows.target)))
    return state


def _at_random(state: State, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(tensor.shape, generator=generator, dtype=torch.float64) for name, tensor in state.items()}


@pytest.mark.parametrize("kind", SUMMED)
def test_the_shapes_of_a_rows_cells_add_up_to_the_models_output(kind: str) -> None:
    rule = _recipe(kind, pairs=PAIRED["pairs"])
    module = rule.build(TARGETS[kind])
    module.load_state_dict(_at_random(module.state_dict()))
    x = torch.from_numpy(reference_rows(points_of(_schema(kind)), 200, np.random.default_rng(1)))
    start, found = cell_parts(rule, module.state_dict(), x)
    shown = module({"features": x}).numpy() * rule.outcome.half + rule.outcome.middle
    assert found.shape[1] == len(rule.cells.terms) == 6
    assert np.abs(start + found.sum(axis=1) - shown).max() < 1e-9


def test_a_bar_is_the_root_mean_square_over_released_shares_and_a_curve_the_shape_itself() -> None:
    rule = _recipe("regression", pairs=PAIRED["pairs"])
    state = _fitted(rule, _rows("regression", 300, np.random.default_rng(2)), 1.0, np.random.default_rng(3))
    effects = {one.column: one for one in explain_additive("made", _schema("regression"), rule, state, 300).effects}
    assert set(effects) == CHANCE | {"planted"}
    for term, place in zip(rule.cells.terms, rule.cells.slices, strict=True):
        effect, shape = effects[term.name], state[SHAPES][place, 0].numpy() * 20
        assert effect.importance == pytest.approx(math.sqrt(float(state[PART][place].numpy() @ shape**2)))
        assert effect.curve.values == pytest.approx(shape.tolist())
        room = (np.array(effect.curve.highs) - effect.curve.values) / 1.96 / 20
        assert (room**2 > state[NOISE][place, 0].numpy()).all()  # the scatter of rows is more
    assert effects["planted"].curve.places[0] == 0.25
    assert effects["idle"].curve.names[-1] == "missing"
    assert effects["colour"].curve.names == ("red", "green", "blue")


@pytest.mark.parametrize("kind", SUMMED)
def test_the_scatter_of_rows_is_that_of_labels_drawn_again(kind: str) -> None:
    """Without noise and without any effect: the shapes that chance alone makes, over 15 draws of rows."""
    rule, generator = _recipe(kind, 12, bins=4), np.random.default_rng(4)
    runs = [_fitted(rule, _rows(kind, 400, generator, planted=0.0), 0.0, generator) for _ in range(15)]
    seen = np.mean([norms(rule, run[PART].numpy(), np.square(run[SHAPES].numpy())) ** 2 for run in runs])
    said = np.mean(
        [norms(rule, run[PART].numpy(), scatter(rule, run, 400, generator)).mean(axis=1) ** 2 for run in runs[:2]]
    )
    # A regression's residual here is less than the public guess, and scores of several classes move each other.
    assert {"binary": 0.75, "multiclass": 0.5, "regression": 0.3}[kind] < seen / said < 1.5


def test_a_margin_holds_for_all_columns_whatever_cells_do_together() -> None:
    """One direction for all cells of a column is the worst case, independent cells are far from it."""
    rule, generator = _recipe("binary"), np.random.default_rng(5)
    part = rule.build(TARGETS["binary"]).state_dict()[PART].numpy()
    variances = generator.uniform(0.1, 2.0, (rule.cells.size, 1))
    room, held = margins(rule, part, variances), {"one": 0, "alone": 0}
    for _ in range(2000):
        one = np.concatenate([np.full(term.cells, generator.normal()) for term in rule.cells.terms])
        for name, draw in (("one", one), ("alone", generator.normal(size=rule.cells.size))):
            held[name] += bool((norms(rule, part, np.square(draw)[:, None] * variances) <= room).all())
    assert 0.93 < held["one"] / 2000 < 0.97
    assert held["alone"] / 2000 > 0.98


@pytest.mark.parametrize("kind", SUMMED)
def test_a_planted_column_is_first_and_clear(kind: str) -> None:
    rule, generator = _recipe(kind, **({} if kind == "multiclass" else PAIRED)), np.random.default_rng(6)
    state = _fitted(rule, _rows(kind, 1500, generator), solve(rule.shares, 3.0, 1e-5), generator)
    effects = explain_additive("made", _schema(kind), rule, state, 1500).effects
    outputs = {effect.output for effect in effects}
    assert (
        outputs
        == {
            "binary": {"log-odds of yes"},
            "multiclass": {f"log-odds of {name}" for name in "abc"},
            "regression": {"y"},
        }[kind]
    )
    firsts = [next(effect for effect in effects if effect.output == output) for output in sorted(outputs)]
    assert {effect.column for effect in firsts} == {"planted"}
    assert firsts[-1].clear
    assert not any(effect.clear for effect in effects if effect.column in CHANCE)


@pytest.mark.end_to_end
@pytest.mark.parametrize("epsilon", [3.0, 100.0])
@pytest.mark.parametrize("kind", SUMMED)
def test_shuffled_columns_are_grey_in_19_of_20_releases(kind: str, epsilon: float) -> None:
    """Noise alone does not say so at a large budget: the scatter of rows is left."""
    changes = {} if kind == "multiclass" else PAIRED
    first = grey = by_noise = 0
    for seed in range(20):
        rule, generator = _recipe(kind, **changes), np.random.default_rng(seed)
        state = _fitted(rule, _rows(kind, 1500, generator), solve(rule.shares, epsilon, 1e-5), generator)
        effects = explain_additive(f"made {seed}", _schema(kind), rule, state, 1500).effects
        first += effects[0].column == "planted"
        grey += not any(effect.clear for effect in effects if effect.column in CHANCE)
        part = state[PART].numpy()
        beyond = norms(rule, part, state[SHAPES].numpy() ** 2) > margins(rule, part, state[NOISE].numpy())
        by_noise += not beyond[1:].any()
    assert first == 20
    assert grey >= 19
    assert by_noise < 19 or epsilon == 3.0


FACTORY = About("low", "factories-1", "factory", FEDERATED, "", load_scenario("factories").contract)
VIEW = view_of(FACTORY)


def _model() -> OwnModel:
    network = build_module(FACTORY.contract, "factory")
    network.load_state_dict(_at_random(network.state_dict(), 3))
    return OwnModel(industries.get("factory").schema.target, network)


def _finished(folder: Path) -> Path:
    """Write what the coordinator keeps of a finished run of `factories`."""
    folder.mkdir()
    (folder / "scenario.json").write_text(load_scenario("factories").to_json(), encoding="utf-8")
    result = {"schema": 1, "run_id": folder.name, "participants": {}, "status": "completed"}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    (folder / "model").mkdir()
    network = _model().network
    assert network is not None
    safetensors.torch.save_file(state_of(network), folder / "model" / "factory.safetensors")
    return folder


def test_the_command_shows_shapes_and_intervals(tmp_path: Path) -> None:
    folder = _finished(tmp_path / "factories-1")
    call = CliRunner().invoke(APP, ["explain", str(folder), "--json", "--out", str(tmp_path / "page")])
    assert call.exit_code == 0, call.output
    (found,) = json.loads(call.output[: call.output.rindex("]") + 1])
    assert found["learner"] == "additive"
    assert {effect["column"] for effect in found["effects"]} == {one.column for one in points_of(VIEW)}
    assert all(isinstance(effect["clear"], bool) and effect["curve"]["lows"] for effect in found["effects"])
    assert "round" not in " ".join(found["says"])
    text = (tmp_path / "page" / "explain.html").read_text(encoding="utf-8")
    assert "grey: noise could have made it" in text
    (section,) = sections_of_run(folder)
    assert section.title == "Why: what the model of factory goes by"
    drawn = shape_charts(FACTORY.contract, folder)  # on the dashboard: every shape, grey ones included
    assert [f"factory: {chart.caption}" for chart in section.charts[1:]] == [caption for caption, _ in drawn]
    assert len(drawn) == len(found["effects"])
    assert all("band" in drawing or "dot" in drawing for _, drawing in drawn)
    assert not shape_charts(FACTORY.contract, tmp_path)
    assert not shape_charts(load_scenario("banks").contract, folder)


def test_predict_explains_a_row_exactly_by_its_cells(tmp_path: Path) -> None:
    folder = _finished(tmp_path / "factories-1")
    name = load_scenario("factories").roster[0].name
    home = folder / "participants" / name / "runs" / folder.name
    model = _model()
    receipt = {"schema": 1, "models": keep(home / "models", {"federated": (model, FACTORY)})}
    receipt["epsilon"] = {"run": 3.0, "delta": 1e-5, "unit": "record", "non_private": False}
    (home / "receipt.json").write_text(json.dumps(receipt), encoding="utf-8")
    frame = industries.get("factory").synthesise(np.random.default_rng(1), 5, "L")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    arguments = ["predict", str(folder), str(tmp_path / "rows.csv"), "--participant", name, "--model", "federated"]
    call = CliRunner().invoke(APP, [*arguments, "--explain", "--out", str(tmp_path / "why.csv")])
    assert call.exit_code == 0, call.output
    assert "log-odds" in call.output
    table = pd.read_csv(tmp_path / "why.csv")
    (output,) = (column for column in table if column.startswith("p("))
    own = [f"{one.column} to {output}" for one in points_of(VIEW)]
    total = table[f"start of {output}"] + table[own].sum(axis=1)
    assert np.abs(1 / (1 + np.exp(-total)) - table[output]).max() < 1e-6


def test_a_pair_is_a_part_of_its_own() -> None:
    contract = FACTORY.contract.model_copy(
        update={"additive": AdditiveTerms(pairs={"factory": (("Torque [Nm]", "Tool wear [min]"),)})}
    )
    about = About("low", "r", "factory", FEDERATED, "", contract)
    target = industries.get("factory").schema.target
    model = OwnModel(target, additive_recipe(contract, "factory").build(target))
    found = parts_of(model, about, VIEW, reference_rows(points_of(VIEW), 3, np.random.default_rng(0)))
    assert found.names == (*(one.column for one in points_of(VIEW)), "Torque [Nm] x Tool wear [min]")
    assert not found.rest.any()


def test_only_units_that_surely_count_whole_are_counted() -> None:
    scenario = load_scenario("factories")
    one, *rest = scenario.roster
    split = scenario.contract.split.train
    whole = sum(round(participant.units * split) for participant in scenario.roster)
    assert _units(scenario, "factory") == whole
    less = scenario.model_copy(update={"roster": (one.model_copy(update={"epsilon": one.epsilon / 2}), *rest)})
    assert _units(less, "factory") == whole - round(one.units * split)


def test_a_learner_of_few_messages_has_no_word_of_steps_or_rounds() -> None:
    shares = Shares("own", ((1.0,),))
    assert shares.messages == 1
    said = " ".join(explain_network("factory", "own", VIEW, _model(), sums=True).says)
    assert "released sums" not in said
    assert "every sum that was released" in said
    assert not {"round", "rounds", "step", "steps", "training"} & set(said.replace(",", "").replace(".", "").split())


def test_start_and_shapes_are_all_that_a_row_gets() -> None:
    """A term that is left out, or a start, is seen."""
    rule = _recipe("binary")
    state = _at_random(rule.build(TARGETS["binary"]).state_dict())
    x = torch.from_numpy(reference_rows(points_of(_schema("binary")), 2, np.random.default_rng(0)))
    start, found = cell_parts(rule, state, x)
    cells = rule.cells.of(x)
    assert start.tolist() == state[START].tolist()
    assert found[0, :, 0].tolist() == state[SHAPES][cells[0], 0].tolist()
