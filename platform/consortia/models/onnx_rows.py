"""Writes the schema's row check and features as an ONNX graph.

Every column is one input of text cells (n_rows,), as a CSV file holds them. The graph knows the same spellings of
"missing" as `clients.schema`, so it needs no preprocessing beside it. It is stricter in two harmless ways, both of
which end in "no prediction": white space around a cell, and numbers beyond 1e99.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from clients._values import BLANK, FLAGS
from clients.schema import Column, Derived, Schema
from consortia.common.errors import InputError
from consortia.models.onnx_cells import DOUBLE, FLOAT, Cells, Graph, Table
from consortia.models.rows import columns_of

__all__ = ["Rows", "add_rows"]

_NUMBER = r"[+-]?(\d{1,60}(\.\d{0,60})?|\.\d{1,60})([eE][+-]?\d{1,2})?"


@dataclass(frozen=True)
class Rows:
    """Names in the graph: the inputs in order, the features (n_rows, width), and which rows are whole (n_rows,)."""

    inputs: tuple[str, ...]
    features: str
    whole: str


@dataclass(frozen=True)
class _Read:
    """A column as nodes: its cells, and which are missing (truth)."""

    cells: Cells
    missing: str


def add_rows(graph: Graph, view: Schema) -> Rows:
    """Add the check and the features of `view`.

    Raises
    ------
    InputError
        A column is generalised by a function, or a derived feature does what ONNX cannot.
    """
    read: dict[str, _Read] = {}
    whole = ""
    for column in columns_of(view):
        read[column.name], fine = _column(graph, column)
        whole = graph.add("And", whole, fine) if whole else fine
    features: list[str] = []
    for column in view.columns:
        if column.is_feature and (not view.selected or column.name in view.selected):
            features += _features(graph, column, read[column.name], view)
    table = Table({name: each.cells for name, each in read.items()})
    for derived in view.derived:
        if not view.selected or derived.name in view.selected:
            features.append(_derived(graph, derived, table))
    axis = graph.constant(np.array([1], dtype=np.int64))
    parts = [graph.add("Unsqueeze", graph.add("Cast", name, to=FLOAT), axis) for name in features]
    return Rows(tuple(read), graph.add("Concat", *parts, axis=1), whole)


def _spellings(words: Any) -> list[str]:
    """Return the words with the ".0" that a float column adds to a whole number."""
    plain = [str(word) for word in words]
    return plain + [f"{word}.0" for word in plain if word.removeprefix("-").isdigit()]


def _lookup(graph: Graph, cells: str, table: dict[str, int], default: int) -> str:
    return graph.add(
        "LabelEncoder",
        cells,
        domain="ai.onnx.ml",
        keys_strings=list(table),
        values_int64s=list(table.values()),
        default_int64=default,
    )


def _is(graph: Graph, code: str, value: int) -> str:
    return graph.add("Equal", code, graph.constant(np.int64(value)))


def _column(graph: Graph, column: Column) -> tuple[_Read, str]:
    """Return the column as it is read, and whether each cell is what the schema allows."""
    cells = column.name
    missing = _is(graph, _lookup(graph, cells, dict.fromkeys([*BLANK, *_spellings(column.missing_values)], 1), 0), 1)
    if column.dtype == "category":
        if column.generalise is not None:
            raise InputError(f"export: column {column.name!r} is a generalised category, which ONNX cannot repeat")
        codes = {text: code for code, c in enumerate(column.categories) for text in _spellings([c])}
        code = _lookup(graph, cells, codes, -1)
        code = graph.add("Where", missing, graph.constant(np.int64(-1)), code)
        known = graph.add("GreaterOrEqual", code, graph.constant(np.int64(0)))
        read = _Read(Cells(graph, code, "category", column.categories), missing)
    elif column.dtype == "flag":
        if column.generalise is not None:
            raise InputError(f"export: column {column.name!r} is a generalised flag, which ONNX cannot repeat")
        words = {t: int(v) for word, v in FLAGS.items() for w in _spellings([word]) for t in _cases(w)}
        code = graph.add("Where", missing, graph.constant(np.int64(-1)), _lookup(graph, cells, words, -1))
        known = graph.add("GreaterOrEqual", code, graph.constant(np.int64(0)))
        value = graph.add("Where", known, graph.add("Cast", code, to=DOUBLE), graph.number(math.nan))
        read = _Read(Cells(graph, value), missing)
    else:
        value, known = _number(graph, column, missing)
        read = _Read(Cells(graph, value), missing)
    return read, graph.add("Or", known, missing) if column.nullable else known


def _cases(word: str) -> set[str]:
    return {word, word.upper(), word.capitalize()}


def _number(graph: Graph, column: Column, missing: str) -> tuple[str, str]:
    """Return the numbers (NaN where missing or none) and which are possible."""
    spelled = graph.add("RegexFullMatch", column.name, pattern=_NUMBER)
    spelled = graph.add("And", spelled, graph.add("Not", missing))
    text = graph.add("Where", spelled, column.name, graph.constant("NaN"))
    value = graph.add("Cast", text, to=DOUBLE)
    if column.generalise is not None:
        if callable(column.generalise):
            raise InputError(f"export: column {column.name!r} is generalised by a function, which ONNX cannot repeat")
        width = graph.number(float(column.generalise))
        value = graph.add("Mul", graph.add("Floor", graph.add("Div", value, width)), width)
    known = spelled
    for operator, bound in (("GreaterOrEqual", column.valid_low), ("LessOrEqual", column.valid_high)):
        if math.isfinite(bound):
            known = graph.add("And", known, graph.add(operator, value, graph.number(bound)))
    if column.dtype == "integer":
        known = graph.add("And", known, graph.add("Equal", value, graph.add("Floor", value)))
    return value, known


def _scaled(graph: Graph, value: str, low: float, high: float, impute: float | None) -> str:
    """See `clients._features._scaled`."""
    middle, half = (low + high) / 2, (high - low) / 2
    finite = graph.add("Not", graph.add("Or", graph.add("IsNaN", value), graph.add("IsInf", value)))
    filled = graph.add("Where", finite, value, graph.number(middle if impute is None else impute))
    clipped = Cells(graph, filled).clip(low, high).name
    return graph.add("Div", graph.add("Sub", clipped, graph.number(middle)), graph.number(half))


def _features(graph: Graph, column: Column, read: _Read, view: Schema) -> list[str]:
    """See `clients._features.column_features`: the same features in the same order."""
    value, absent = read.cells.name, graph.add("Cast", read.missing, to=DOUBLE)
    own_category = True
    if column.dtype == "category":
        own_category = column.impute is None
        if column.scores:
            scores = dict(zip(column.categories, column.scores, strict=True))
            row = graph.constant(np.array([*column.scores, scores.get(str(column.impute), 0.0)], dtype=np.float64))
            features = [graph.add("Gather", row, value)]  # the code of a missing one, -1, is the last entry
        else:
            first = 1 if view.drop_first else 0
            features = []
            for code, category in enumerate(column.categories[first:], start=first):
                here = graph.add("Cast", _is(graph, value, code), to=DOUBLE)
                features.append(graph.add("Add", here, absent) if column.impute == category else here)
    elif column.dtype == "flag":
        features = [Cells(graph, value).fillna(float(column.impute or 0)).name]
    else:
        assert column.low is not None
        assert column.high is not None
        impute = None if column.impute is None else float(column.impute)
        features = [_scaled(graph, value, column.low, column.high, impute)]
    if column.nullable and view.indicators and own_category:
        features.append(absent)
    return features


def _derived(graph: Graph, derived: Derived, table: Table) -> str:
    result: Any = derived.function(table)  # type: ignore[arg-type]
    if not isinstance(result, Cells):
        raise InputError(f"export: derived feature {derived.name!r} gave no column")
    return _scaled(graph, result.number(), derived.low, derived.high, None)
