"""Shape functions of the learner `additive` in the schema's own words: what each column adds to a score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from clients import registry
from clients.industry import effective_schema
from clients.schema import Column, Derived, Schema
from consortia.learners.additive.cells import Term
from consortia.learners.additive.model import NOISE, SHAPES
from consortia.terms.contract import Contract
from consortia.terms.recipe import additive_recipe

__all__ = ["Shape", "shapes_of"]


@dataclass(frozen=True)
class Shape:
    """What one column adds to the score: to the log-odds, or to a regression's value on its public scale.

    Attributes
    ----------
    column : its name, or two of them with " x " between.
    output : class that the score is of; empty where there is one score.
    cells : a name for each cell.
    middles : of the cells of a number, in its own unit; None for a category, a flag, a pair and "missing".
    values : by cell.
    deviations : standard deviation of each value by the noise of the release alone, at most; 0 without noise.
    """

    column: str
    output: str
    cells: tuple[str, ...]
    middles: tuple[float | None, ...]
    values: tuple[float, ...]
    deviations: tuple[float, ...]


def shapes_of(contract: Contract, industry: str, state: Mapping[str, Tensor]) -> list[Shape]:
    """Return the shapes of an industry's model, column by column, of each class in turn."""
    rule = additive_recipe(contract, industry)
    client = registry.get(industry)
    schema = effective_schema(client, filter=contract.industries[industry].filter)
    outputs = client.schema.target.classes if rule.outputs > 1 else ("",)
    found = []
    for term, place in zip(rule.cells.terms, rule.cells.slices, strict=True):
        names, middles = _cells(schema, term)
        for number, output in enumerate(outputs):
            values = tuple(state[SHAPES][place, number].tolist())
            spread = tuple(np.sqrt(state[NOISE][place, number].numpy()).tolist())
            found.append(Shape(term.name, output, names, middles, values, spread))
    return found


def _cells(schema: Schema, term: Term) -> tuple[tuple[str, ...], tuple[float | None, ...]]:
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
