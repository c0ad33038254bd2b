"""Public groups of rows: which group a row is in follows from the row, and no two groups have one name."""

from __future__ import annotations

import numpy as np
import pytest

from clients._groups import MISSING, Grouping
from clients._pandas import pd
from clients.errors import SchemaError
from clients.schema import Column, Schema, Target

BINARY = Target(name="y", kind="binary", classes=("no", "yes"))


def test_the_group_of_a_row_follows_from_the_row() -> None:
    columns = (
        Column(name="sex", dtype="flag", nullable=True),
        Column(name="age", dtype="number", low=0, high=100),
        Column(name="kind", dtype="category", categories=("a", "b")),
        Column(name="name", dtype="text", identifier="hash"),
    )
    schema = Schema(name="s", version=1, columns=columns, target=BINARY)
    frame = pd.DataFrame({"sex": [1.0, 0.0, np.nan], "age": [29.9, 30.0, 90.0], "kind": ["b", "a", "b"]})
    assert Grouping("sex").names(schema) == ("sex=0", "sex=1", MISSING)
    assert Grouping("sex").codes(schema, frame).tolist() == [1, 0, 2]
    assert Grouping("age", (30.0, 60.0)).codes(schema, frame).tolist() == [0, 1, 2]
    assert Grouping("kind").codes(schema, frame).tolist() == [1, 0, 1]
    for wrong in (Grouping("name"), Grouping("age", (60.0, 30.0)), Grouping("age", (float("nan"),))):
        with pytest.raises(SchemaError):
            wrong.names(schema)


def test_groups_of_different_rows_never_have_one_name() -> None:
    """A category may have a value called "missing", and borders may be alike in six digits."""
    kind = Column(name="kind", dtype="category", categories=("a", MISSING, f"({MISSING})"), nullable=True)
    wage = Column(name="wage", dtype="number", low=0, high=1e7)
    schema = Schema(name="s", version=1, columns=(kind, wage), target=BINARY)
    frame = pd.DataFrame({"kind": ["a", MISSING, None], "wage": [1000000.2, 1000000.3, 0.1]})
    assert Grouping("kind").names(schema) == ("a", "missing", "(missing)", "((missing))")
    assert Grouping("kind").codes(schema, frame).tolist() == [0, 1, 3]
    never = Column(name="kind", dtype="category", categories=("a", MISSING))
    alone = Schema(name="s", version=1, columns=(never,), target=BINARY)
    assert Grouping("kind").names(alone) == ("a", "missing")
    assert Grouping("kind").codes(alone, frame.assign(kind=["a", MISSING, "a"])).tolist() == [0, 1, 0]
    cuts = Grouping("wage", (30.0, 1000000.1, 1000000.25))
    assert cuts.names(schema) == (
        "wage < 30",
        "30 <= wage < 1000000.1",
        "1000000.1 <= wage < 1000000.25",
        "wage >= 1000000.25",
    )
    assert cuts.codes(schema, frame).tolist() == [2, 3, 0]
