"""The shape functions of the learner `additive`, as a person reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from clients import registry
from consortia.learners.additive.model import NOISE, SHAPES
from consortia.models.shapes import shapes_of
from consortia.reports.shapes import shape_charts
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import State, build_module, state_of


def _state() -> State:
    state = state_of(build_module(load_scenario("factories-additive").contract, "factory"))
    size = len(state[SHAPES])
    return {**state, SHAPES: torch.arange(size).double().unsqueeze(1), NOISE: torch.full_like(state[NOISE], 4.0)}


def test_a_shape_has_the_units_and_names_of_the_schema() -> None:
    shapes = {
        shape.column: shape for shape in shapes_of(load_scenario("factories-additive").contract, "factory", _state())
    }
    torque = shapes["Torque [Nm]"]
    assert torque.cells[0] == "0 to 5"
    assert torque.middles[0] == pytest.approx(2.5)
    assert torque.deviations[0] == 2.0
    wear = shapes["Tool wear [min]"]
    assert (wear.cells[-1], wear.middles[-1], len(wear.cells)) == ("missing", None, 17)
    assert sum(len(shape.values) for shape in shapes.values()) == len(_state()[SHAPES])


def test_names_of_categories_are_theirs() -> None:
    contract = load_scenario("banks-sums").contract
    data = contract.model_dump(mode="python", by_alias=True)
    data |= {"learner": "additive", "sums": None, "additive": {}, "rounds": 21}
    other = type(contract).model_validate(data)
    shapes = {shape.column: shape for shape in shapes_of(other, "bank", state_of(build_module(other, "bank")))}
    one_hot = next(c for c in registry.get("bank").schema.columns if c.name in shapes and c.categories and not c.scores)
    assert shapes[one_hot.name].cells[: len(one_hot.categories)] == one_hot.categories


def test_every_shape_is_drawn_with_its_band(tmp_path: Path) -> None:
    contract = load_scenario("factories-additive").contract
    assert not shape_charts(contract, tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "factory.safetensors").write_bytes(safetensors.torch.save(_state()))
    drawn = shape_charts(contract, tmp_path)
    assert len(drawn) == len(shapes_of(contract, "factory", _state()))
    assert all("band" in drawing for _, drawing in drawn)
    assert not shape_charts(load_scenario("banks-sums").contract, tmp_path)
