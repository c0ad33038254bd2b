"""The cells of the learner `additive`, as a person reads them."""

from __future__ import annotations

import pytest

from clients.schema import Column, Schema, Target
from consortia.learners.additive.cells import cells_of
from consortia.models.shapes import cell_names

REGRESSION = Target(name="y", kind="regression", low=0, high=1)


def test_a_numbers_cells_have_the_units_of_the_schema() -> None:
    torque = Column(name="torque", dtype="number", low=0, high=80, nullable=True)
    rank = Column(name="rank", dtype="category", categories=("low", "mid", "high"), scores=(-1.0, 0.0, 1.0))
    schema = Schema(name="few", version=1, columns=(torque, rank), target=REGRESSION)
    number, score, pair = cells_of(schema, 16, 2, {}, [("torque", "rank")]).terms
    names, middles = cell_names(schema, number)
    assert (names[0], middles[0], len(names)) == ("0 to 5", pytest.approx(2.5), 17)
    assert (names[-1], middles[-1]) == ("missing", None)
    assert cell_names(schema, score)[1][0] == pytest.approx(-1 + 1 / 16)
    assert cell_names(schema, pair) == (("1, 1", "1, 2", "2, 1", "2, 2"), (None,) * 4)


def test_names_of_categories_are_theirs() -> None:
    column = Column(name="kind", dtype="category", categories=("a", "b"), nullable=True)
    schema = Schema(name="few", version=1, columns=(column,), target=REGRESSION)
    (term,) = cells_of(schema, 4, 2, {}, ()).terms
    names, middles = cell_names(schema, term)
    assert names[:2] == ("a", "b")
    assert middles == (None,) * term.cells
