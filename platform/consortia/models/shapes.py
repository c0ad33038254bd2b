"""Cells of the learner `additive` in the schema's own words."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from clients.schema import Column, Derived, Schema
from consortia.learners.additive.cells import Term

__all__ = ["cell_names"]


def cell_names(schema: Schema, term: Term) -> tuple[tuple[str, ...], tuple[float | None, ...]]:
    """Return the names of a term's cells, and the middles of those of a number."""
    if term.kind == "pair":
        cells = range(term.bins)
        return tuple(f"{one + 1}, {other + 1}" for one in cells for other in cells), (None,) * term.cells
    if term.kind != "number":
        names = [schema.feature_names[place].removeprefix(f"{term.name}=") for place in term.features]
        names = [*names, "none"][: term.cells] if term.kind == "category" else ["no", "yes", "missing"][: term.cells]
        return tuple(names), (None,) * term.cells
    low, high = _bounds(schema, term.name)
    edges = np.linspace(low, high, term.bins + 1)
    names = [f"{one:.4g} to {other:.4g}" for one, other in pairwise(edges)]
    middles: list[float | None] = [float(middle) for middle in (edges[1:] + edges[:-1]) / 2]
    return tuple(names + ["missing"] * term.missing), tuple(middles + [None] * term.missing)


def _bounds(schema: Schema, name: str) -> tuple[float, float]:
    """Return the public bounds of a number; -1 and 1 of an ordered category, which has scores."""
    known: tuple[Column | Derived, ...] = (*schema.columns, *schema.derived)
    for column in known:
        if column.name == name and column.low is not None and column.high is not None:
            return column.low, column.high
    return -1.0, 1.0
