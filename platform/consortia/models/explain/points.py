"""The values that a schema allows each column, as features; effect curves and reference rows consist of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clients.schema import Column, Derived, Schema

__all__ = ["Points", "points_of", "reference_rows"]

Array = NDArray[np.float64]
#: Values of a number that are looked at, bounds included.
_VALUES: Final = 21


@dataclass(frozen=True)
class Points:
    """One column of the schema.

    Attributes
    ----------
    column, measure : its name and unit of measure.
    positions : of its features in a row.
    names : of the values.
    places : of the values in the column's own unit; None for a category, a flag and "missing".
    features : float64 (n_values, n_positions)
    """

    column: str
    measure: str
    positions: tuple[int, ...]
    names: tuple[str, ...]
    places: tuple[float | None, ...]
    features: Array


def points_of(schema: Schema) -> list[Points]:
    """Return the columns that a model of this schema sees, in their order."""
    known: dict[str, Column | Derived] = {column.name: column for column in schema.columns}
    known |= {derived.name: derived for derived in schema.derived}
    found, start = [], 0
    for name, kinds in schema.feature_groups:
        positions = tuple(range(start, start + len(kinds)))
        start += len(kinds)
        names = schema.feature_names[positions[0] : start]
        found.append(_points(known[name], kinds, positions, names, schema.drop_first))
    return found


def _points(
    column: Column | Derived, kinds: Sequence[str], positions: tuple[int, ...], names: Sequence[str], drop_first: bool
) -> Points:
    missing = kinds[-1] == "missing"
    if kinds[0] == "category":
        labels = [name.removeprefix(f"{column.name}=").removeprefix(f"{column.name} is ") for name in names]
        rows = np.eye(len(kinds))
        if drop_first and isinstance(column, Column):
            labels, rows = [column.categories[0], *labels], np.vstack([np.zeros(len(kinds)), rows])
        return Points(column.name, column.measure, positions, tuple(labels), (None,) * len(labels), rows)
    places: list[float | None]
    if kinds[0] == "flag":
        labels, places, values = ["no", "yes"], [None, None], np.array([0.0, 1.0])
    elif kinds[0] == "score" and isinstance(column, Column):
        labels, values = list(column.categories), np.array(column.scores)
        places = [None] * len(labels)
    else:
        assert column.low is not None
        assert column.high is not None
        own = np.linspace(column.low, column.high, _VALUES)
        labels, places, values = [f"{v:.4g}" for v in own], list(own.tolist()), np.linspace(-1, 1, _VALUES)
    rows = values[:, None]
    if missing:
        rows = np.hstack([rows, np.zeros((len(rows), 1))])
        rows = np.vstack([rows, [_imputed(column, kinds[0]), 1.0]])
        labels, places = [*labels, "missing"], [*places, None]
    return Points(column.name, column.measure, positions, tuple(labels), tuple(places), rows)


def _imputed(column: Column | Derived, kind: str) -> float:
    """Return the public constant that stands for a missing value, as a feature."""
    impute = column.impute if isinstance(column, Column) else None
    if impute is None:
        return 0.0
    if kind == "number":
        assert column.low is not None
        assert column.high is not None
        return 2 * (float(impute) - column.low) / (column.high - column.low) - 1
    return float(impute) if kind == "flag" else 0.0


def reference_rows(points: Sequence[Points], count: int, generator: np.random.Generator) -> Array:
    """Return rows (count, n_features) that only the schema says anything about.

    Each column is drawn by itself, every value of `Points` alike: no row of anybody is among them.
    """
    rows = np.zeros((count, sum(len(one.positions) for one in points)))
    for one in points:
        rows[:, list(one.positions)] = one.features[generator.integers(len(one.features), size=count)]
    return rows
