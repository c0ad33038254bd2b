"""Whether an industry's model can be measured by group, and the cells of the histogram that does it.

Guarantee: the cell of a row follows from the row, its score and public edges. A row is in one cell, so the groups
together cost what one histogram costs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clients._groups import Grouping
from clients.errors import SchemaError
from clients.schema import Schema

__all__ = ["by_group", "possible", "problem"]


def problem(schema: Schema, grouping: Grouping) -> str | None:
    """Return why a model cannot be measured by group, with what was wanted; None where it can."""
    if schema.target.kind != "binary":
        return f"wanted a target of two classes, got {schema.target.kind}: positive rates are of two classes"
    if grouping.column == schema.target.name:
        return f"wanted a column beside the target, got the target {grouping.column!r}"
    try:
        grouping.names(schema)
    except SchemaError as error:
        return str(error)
    return None


def possible(schema: Schema) -> list[Grouping]:
    """Return a grouping for each column that can give one, those of a special kind first.

    A number is cut in the middle of its public bounds.
    """
    columns = sorted(schema.columns, key=lambda column: not column.sensitive)
    found = []
    for column in columns:
        middle = None if column.low is None or column.high is None else (column.low + column.high) / 2
        cuts = () if middle is None or column.dtype in {"category", "flag"} else (middle,)
        found.append(Grouping(column.name, cuts))
    return [grouping for grouping in found if problem(schema, grouping) is None]


def by_group(cells: NDArray[np.int64], groups: NDArray[np.int64], n_cells: int) -> NDArray[np.int64]:
    """Return the cells (n_rows,) told apart by group: group x n_cells + cell; -1 where either is missing."""
    return np.where((cells < 0) | (groups < 0), -1, groups * n_cells + cells)
