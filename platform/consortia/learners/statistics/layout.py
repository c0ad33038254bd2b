"""What is counted of an industry's rows: a function of the public schema, and one vector of numbers.

Each column has public cells: its categories, or equal bins between its public bounds, and one for *missing* where the
schema allows that and the features say it. With a target of classes every cell is split by class; with a bounded
regression target each cell also has the sum of the target in it. A number also gives the sums of x and of 2 x^2 - 1,
both halved, x being on the public scale [-1, 1]. The halves keep a column's part of a row's norm small.

Formal guarantees
-----------------
Under adding or removing one unit, for any rows, the vector moves by at most `Layout.bound` in L2:

* A row has one cell of every column (norm 1), with it half of the target on [-1, 1] (1/4 more of the square), and for a
  number (x^2 + (2 x^2 - 1)^2) / 4 <= 1/2 more. A unit's m rows weigh 1/m each, so it adds at most the bound.
* *To the bit.* Each number is rounded towards 0 to multiples of 2^-24 before it is added (which only shortens it); on
  that grid float64 sums of 2^20 rows are exact, in whatever order. So what a unit adds goes by its own rows alone.
* A row with a number that is not finite adds 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.schema import Column, Derived, Schema, Target
from consortia.learners.blocks.rows import Rows, on_grid
from consortia.learners.blocks.shares import Shares
from consortia.learners.statistics.shares import BLOCK, ONE_BLOCK
from privacy.errors import PlanError

__all__ = ["HALF", "Layout", "StatedColumn", "layout_of"]

Array = NDArray[np.float64]
#: Factor of everything but a cell's one.
HALF: Final = 0.5
_STEPS: Final = 2.0**24


@dataclass(frozen=True)
class StatedColumn:
    """One column and its public cells.

    Attributes
    ----------
    kind : "number" (equal bins), "score" (nearest of `levels`), "category" or "flag".
    labels : of the cells, without the one for missing values.
    places : positions of the features that tell the cell.
    missing : position of the feature that says *missing*; None where nothing says it.
    levels : of a score, the value of each cell.
    unlisted : whether the first category has no feature of its own.
    low, high : public bounds of a number, in its own unit.
    """

    name: str
    kind: Literal["number", "score", "category", "flag"]
    labels: tuple[str, ...]
    places: tuple[int, ...]
    missing: int | None
    measure: str = ""
    levels: tuple[float, ...] = ()
    unlisted: bool = False
    low: float = 0.0
    high: float = 1.0

    @property
    def cells(self) -> int:
        """Number of cells, that of missing values included."""
        return len(self.labels) + (self.missing is not None)

    def cell(self, features: Tensor) -> Tensor:
        """Return the cell of each row (n_rows,), int64."""
        x = features[:, list(self.places)]
        if self.kind == "number":
            found = ((x[:, 0] + 1) / 2 * len(self.labels)).floor().clamp(0, len(self.labels) - 1).long()
        elif self.kind == "score":
            found = (x - torch.tensor(self.levels, dtype=x.dtype)).abs().argmin(dim=1)
        elif self.kind == "flag":
            found = (x[:, 0] > 0.5).long()
        else:
            found = x.argmax(dim=1) + self.unlisted
            if self.unlisted:
                found = torch.where(x.max(dim=1).values > 0.5, found, 0)
        return found if self.missing is None else torch.where(self.absent(features), len(self.labels), found)

    def absent(self, features: Tensor) -> Tensor:
        """Return whether each row's value is missing (n_rows,), bool."""
        if self.missing is None:
            return torch.zeros(len(features), dtype=torch.bool)
        return features[:, self.missing] > 0.5


@dataclass(frozen=True)
class Layout:
    """The vector that is released: where each column's numbers stand, and how far one unit moves it.

    Attributes
    ----------
    outcome : a regression target as a column of its own; None where classes split the cells.
    classes : of the target; empty for a regression.
    """

    columns: tuple[StatedColumn, ...]
    outcome: StatedColumn | None
    classes: tuple[str, ...]
    target: str
    shares: Shares = ONE_BLOCK

    @property
    def stated(self) -> tuple[StatedColumn, ...]:
        """Every column with cells of its own, the outcome last."""
        return (*self.columns, *((self.outcome,) if self.outcome else ()))

    @property
    def split(self) -> int:
        """Into how many numbers each cell of a feature column is split."""
        return max(1, len(self.classes))

    def split_of(self, column: StatedColumn) -> int:
        """Into how many numbers each cell of a column is split."""
        return 1 if column is self.outcome else self.split

    def _parts(self) -> Iterator[tuple[StatedColumn, str, int]]:
        """Yield column, part and length in the order of the vector."""
        for column in self.stated:
            yield column, "cells", column.cells * self.split_of(column)
            if self.outcome is not None and column is not self.outcome:
                yield column, "outcome", column.cells
            if column.kind == "number":
                yield column, "moments", 2

    @cached_property
    def slices(self) -> dict[tuple[str, str], slice]:
        """Where the part of a column stands: "cells" (cell by cell, class by class), "outcome", "moments"."""
        out, start = {}, 0
        for column, part, length in self._parts():
            out[column.name, part] = slice(start, start + length)
            start += length
        return out

    @property
    def length(self) -> int:
        """Numbers in the vector."""
        return sum(length for _, _, length in self._parts())

    @property
    def bound(self) -> float:
        """How far one unit moves the vector at most, in L2."""
        square = {"cells": 1.0, "outcome": HALF**2, "moments": 2 * HALF**2}
        return math.sqrt(math.fsum(square[part] for _, part, _ in self._parts()))

    def names(self, message: int) -> tuple[str, ...]:
        """See `BlockRecipe`."""
        return (BLOCK,)

    def lengths(self, message: int) -> tuple[int, ...]:
        """See `BlockRecipe`."""
        return (self.length,)

    def sensitivities(self, message: int) -> tuple[float, ...]:
        """See `BlockRecipe`."""
        return (self.bound,)

    def exact(self, message: int, rows: Rows, model: Mapping[str, Tensor]) -> list[Array]:
        """See `BlockRecipe`."""
        return [self.vector(rows)]

    def check_model(self, model: Mapping[str, Tensor]) -> None:
        """Take any model: nothing is trained."""

    def vector(self, rows: Rows) -> Array:
        """Return the exact vector (length,) of rows; float64, a sum of what each unit adds."""
        features, target = rows.features.double(), rows.target.double()
        finite = torch.isfinite(features).all(dim=1) & torch.isfinite(target)
        features, target = torch.where(finite[:, None], features, 0.0).clamp(-1, 1), torch.where(finite, target, 0.0)
        share = on_grid((rows.shares() * finite[:, None]), _STEPS)[:, 0]
        y = self._scaled(target)
        out = torch.zeros(self.length, dtype=torch.float64)

        def add(place: slice, index: Tensor, values: Tensor) -> None:
            out[place].index_add_(0, index, on_grid(values[:, None], _STEPS)[:, 0])

        for column in self.stated:
            x = y[:, None] if column is self.outcome else features
            cell = column.cell(x)
            code = target.long().clamp(0, self.split - 1) if self.classes and column is not self.outcome else 0
            add(self.slices[column.name, "cells"], cell * self.split_of(column) + code, share)
            if (column.name, "outcome") in self.slices:
                add(self.slices[column.name, "outcome"], cell, HALF * y * share)
            if column.kind == "number":
                value = x[:, column.places[0]]
                there = share * ~column.absent(x)
                first = torch.zeros(len(value), dtype=torch.int64)
                moments = self.slices[column.name, "moments"]
                add(moments, first, HALF * value * there)
                add(moments, first + 1, HALF * (2 * value * value - 1) * there)
        return np.asarray(out)

    def _scaled(self, target: Tensor) -> Tensor:
        """Return a regression target on [-1, 1]; zeros for classes."""
        if self.outcome is None:
            return torch.zeros_like(target)
        middle, half = (self.outcome.low + self.outcome.high) / 2, (self.outcome.high - self.outcome.low) / 2
        return ((target - middle) / half).clamp(-1, 1)


def layout_of(schema: Schema, bins: int) -> Layout:
    """Return what is counted of an industry, with `bins` equal bins for a number.

    Raises
    ------
    PlanError
        Where no column has public cells.
    """
    names = {name: place for place, name in enumerate(schema.feature_names)}
    columns = [found for column in schema.columns if (found := _stated(column, schema, names, bins)) is not None]
    columns += [_number(d, names[d.name], None, bins) for d in schema.derived if d.name in names]
    if not columns:
        raise PlanError(f"schema {schema.name!r}: wanted a column that gives a feature, got none")
    target = schema.target
    return Layout(tuple(columns), _outcome(target, bins), target.classes, target.name)


def _stated(column: Column, schema: Schema, names: dict[str, int], bins: int) -> StatedColumn | None:
    missing = names.get(f"{column.name} is missing")
    listed = [c for c in column.categories if f"{column.name}={c}" in names]
    if not column.is_feature or not (column.name in names or listed):
        return None
    if column.dtype == "flag":
        return StatedColumn(column.name, "flag", ("0", "1"), (names[column.name],), missing, column.measure)
    if column.dtype != "category":
        return _number(column, names[column.name], missing, bins)
    if column.scores:
        levels = tuple(sorted(set(column.scores)))
        labels = tuple(
            " or ".join(c for c, score in zip(column.categories, column.scores, strict=True) if score == level)
            for level in levels
        )
        place = (names[column.name],)
        return StatedColumn(column.name, "score", labels, place, missing, column.measure, levels)
    places = tuple(names[f"{column.name}={category}"] for category in listed)
    unlisted = len(listed) < len(column.categories)
    return StatedColumn(column.name, "category", column.categories, places, missing, column.measure, unlisted=unlisted)


def _number(column: Column | Derived | Target, place: int, missing: int | None, bins: int) -> StatedColumn:
    low, high = column.low, column.high
    assert low is not None
    assert high is not None
    edges = np.linspace(low, high, bins + 1)
    labels = tuple(f"{left:.4g} to {right:.4g}" for left, right in pairwise(edges))
    bounds: dict[str, Any] = {"low": float(low), "high": float(high)}
    return StatedColumn(column.name, "number", labels, (place,), missing, column.measure, **bounds)


def _outcome(target: Target, bins: int) -> StatedColumn | None:
    if target.kind != "regression" or target.low is None:
        return None
    return _number(target, 0, None, bins)
