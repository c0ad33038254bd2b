"""The shape functions of the learner `additive`, as a person reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from clients.schema import Column, Schema, Target
from consortia.learners.additive.cells import cells_of
from consortia.learners.additive.model import NOISE, SHAPES
from consortia.models.shapes import _cells, shapes_of
from consortia.reports.shapes import shape_charts
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import State, build_module, state_of


def _state() -> State:
    state = state_of(build_module(load_scenario("factories").contract, "factory"))
    size = len(state[SHAPES])
    return {**state, SHAPES: torch.arange(size).double().unsqueeze(1), NOISE: torch.full_like(state[NOISE], 4.0)}


def test_a_shape_has_the_units_and_names_of_the_schema() -> None:
    shapes = {shape.column: shape for shape in shapes_of(load_scenario("factories").contract, "factory", _state())}
    torque = shapes["Torque [Nm]"]
    assert torque.cells[0] == "0 to 5"
    assert torque.middles[0] == pytest.approx(2.5)
    assert torque.deviations[0] == 2.0
    wear = shapes["Tool wear [min]"]
    assert (wear.cells[-1], wear.middles[-1], len(wear.cells)) == ("missing", None, 17)
    assert sum(len(shape.values) for shape in shapes.values()) == len(_state()[SHAPES])


def test_names_of_categories_are_theirs() -> None:
    column = Column(name="kind", dtype="category", categories=("a", "b"), nullable=True)
    schema = Schema(name="few", version=1, columns=(column,), target=Target(name="y", kind="regression", low=0, high=1))
    (term,) = cells_of(schema, 4, 2, {}, ()).terms
    names, middles = _cells(schema, term)
    assert names[:2] == ("a", "b")
    assert middles == (None,) * term.cells


def test_every_shape_is_drawn_with_its_band(tmp_path: Path) -> None:
    contract = load_scenario("factories").contract
    assert not shape_charts(contract, tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "factory.safetensors").write_bytes(safetensors.torch.save(_state()))
    drawn = shape_charts(contract, tmp_path)
    assert len(drawn) == len(shapes_of(contract, "factory", _state()))
    assert all("band" in drawing for _, drawing in drawn)
    assert not shape_charts(load_scenario("banks").contract, tmp_path)
