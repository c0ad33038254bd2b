"""Statistics of released numbers, each with a 95 % interval that covers the noise (not the chance of who was sampled).

Every statistic is a linear function of the vector, or a ratio of two; the noise of the vector's numbers is independent
and of one known deviation. So a count's interval is that of a normal, and a ratio's is Fieller's (1954): all r for
which ``a - r b`` is within its noise of 0. That holds for denominators near 0, too, where it becomes everything that a
ratio can be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consortia.learners.statistics.layout import HALF, Layout, StatedColumn

__all__ = ["CONFIDENT", "Estimate", "Line", "Released", "ratio", "statistics_of"]

Array = NDArray[np.float64]
#: Two-sided 95 % of a normal.
CONFIDENT: Final = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval for the noise; None where the noise leaves nothing of it."""

    value: float | None
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Return it as JSON-able data."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Line:
    """A linear function of the vector: ``weights @ vector[places]``; places ascend."""

    places: NDArray[np.int64]
    weights: Array

    @classmethod
    def of(cls, where: slice, weight: float = 1.0, step: int = 1) -> Line:
        """Return the sum of a slice times a weight."""
        places = np.arange(where.start, where.stop, step, dtype=np.int64)
        return cls(places, np.full(len(places), weight))

    def plus(self, other: Line, times: float = 1.0) -> Line:
        """Return this and another one `times`."""
        places, index = np.unique(np.concatenate([self.places, other.places]), return_inverse=True)
        weights = np.concatenate([self.weights, times * other.weights])
        return Line(places, np.asarray(np.bincount(index, weights, len(places)), dtype=np.float64))

    def dot(self, other: Line) -> float:
        """Return the inner product of the weights: the covariance of the noise, over its variance."""
        short, long = (self, other) if len(self.places) <= len(other.places) else (other, self)
        found = np.searchsorted(long.places, short.places).clip(max=len(long.places) - 1)
        same = long.places[found] == short.places
        return float(short.weights[same] @ long.weights[found[same]])


@dataclass(frozen=True)
class Released:
    """A released vector, of one site or of a sum of sites.

    Attributes
    ----------
    vector : (length,)
    deviation : of the noise in each number; 0 without noise.
    """

    layout: Layout
    vector: Array
    deviation: float

    def at(self, line: Line) -> float:
        """Return the value of a line."""
        return float(line.weights @ self.vector[line.places])

    def count(self, line: Line, confident: float = CONFIDENT) -> Estimate:
        """Return a count with its interval."""
        value, room = self.at(line), confident * self.deviation * math.sqrt(float(line.weights @ line.weights))
        return Estimate(value, value - room, value + room)

    def less(self, own: Released) -> Released:
        """Return what is left without one's own part, taken off as it was sent: the others' noise stays."""
        left = math.sqrt(max(0.0, self.deviation**2 - own.deviation**2))
        return Released(self.layout, self.vector - own.vector, left)

    @cached_property
    def units(self) -> Line:
        """The number of units: the mean over columns of their cells' sums, which holds the least noise."""
        stated = self.layout.stated
        lines = [Line.of(self.layout.slices[column.name, "cells"], 1 / len(stated)) for column in stated]
        return Line(np.concatenate([line.places for line in lines]), np.concatenate([line.weights for line in lines]))

    def cell(self, column: StatedColumn, number: int, code: int | None = None) -> Line:
        """Return a cell of a column; with `code`, that class in it alone."""
        split = self.layout.split_of(column)
        start = self.layout.slices[column.name, "cells"].start + number * split
        return Line.of(slice(start, start + split) if code is None else slice(start + code, start + code + 1))

    def present(self, column: StatedColumn) -> Line:
        """Return the number of units with a value in a column."""
        where, split = self.layout.slices[column.name, "cells"], self.layout.split_of(column)
        return Line.of(slice(where.start, where.start + len(column.labels) * split))

    def moment(self, column: StatedColumn, number: int) -> Line:
        """Return the sum of x (0) or of 2 x^2 - 1 (1) of a number."""
        start = self.layout.slices[column.name, "moments"].start + number
        return Line.of(slice(start, start + 1), 1 / HALF)

    def in_class(self, code: int) -> Line:
        """Return the number of units of a class: the mean over columns."""
        columns = self.layout.columns
        out = [
            Line.of(slice(where.start + code, where.stop), 1 / len(columns), self.layout.split)
            for where in (self.layout.slices[column.name, "cells"] for column in columns)
        ]
        return Line(np.concatenate([line.places for line in out]), np.concatenate([line.weights for line in out]))


def ratio(
    released: Released,
    above: Line,
    below: Line,
    *,
    low: float,
    high: float,
    confident: float = CONFIDENT,
) -> Estimate:
    """Return ``above / below``, which is known to lie in [low, high], with Fieller's interval."""
    a, b = released.at(above), released.at(below)
    s2 = (confident * released.deviation) ** 2
    aa, ab, bb = (s2 * one.dot(other) for one, other in ((above, above), (above, below), (below, below)))
    lead = b * b - bb
    if b <= 0 or lead <= 0:
        return Estimate(None, low, high)
    middle, root = (a * b - ab) / lead, math.sqrt(max(0.0, (a * b - ab) ** 2 - lead * (a * a - aa))) / lead
    inside = [float(min(max(value, low), high)) for value in (a / b, middle - root, middle + root)]
    return Estimate(inside[0], inside[1], inside[2])


def mean_of(released: Released, column: StatedColumn, confident: float = CONFIDENT) -> Estimate:
    """Return the mean of a number on the public scale [-1, 1]."""
    present = released.present(column)
    return ratio(released, released.moment(column, 0), present, low=-1.0, high=1.0, confident=confident)


def variance_of(released: Released, column: StatedColumn, confident: float = CONFIDENT) -> Estimate:
    """Return the variance of a number on the public scale.

    About the mean m found, ``E (x - m)^2`` is one ratio with its own interval; the variance is less than that by the
    square of how far m is off, which the mean's interval bounds.
    """
    mean = mean_of(released, column, confident)
    if mean.value is None:
        return Estimate(None, 0.0, 1.0)
    m, first, present = mean.value, released.moment(column, 0), released.present(column)
    about = released.moment(column, 1).plus(present).plus(first, -4 * m).plus(present, 2 * m * m)
    twice = ratio(released, about, present, low=0.0, high=2 * (1 + abs(m)) ** 2, confident=confident)
    off = max(mean.high - m, m - mean.low) ** 2
    if twice.value is None:
        return Estimate(None, 0.0, 1.0)
    return Estimate(min(twice.value / 2, 1.0), max(0.0, twice.low / 2 - off), min(1.0, twice.high / 2))


def statistics_of(released: Released) -> dict[str, Any]:
    """Return every statistic as JSON-able data: of units, of the target, and of each column."""
    layout = released.layout
    target: dict[str, Any] = {"name": layout.target}
    if layout.classes:
        target["shares"] = {
            label: ratio(released, released.in_class(code), released.units, low=0.0, high=1.0).to_json()
            for code, label in enumerate(layout.classes)
        }
    elif layout.outcome is not None:
        target |= _column(released, layout.outcome)
    return {
        "units": released.count(released.units).to_json(),
        "deviation": released.deviation,
        "target": target,
        "columns": {column.name: _column(released, column) for column in layout.columns},
    }


def _column(released: Released, column: StatedColumn) -> dict[str, Any]:
    """Return the statistics of one column."""
    out: dict[str, Any] = {"kind": column.kind, "measure": column.measure, "missing": None}
    labels = [*column.labels, *(["missing"] if column.missing is not None else [])]
    if column.missing is not None:
        place = released.cell(column, len(column.labels))
        out["missing"] = ratio(released, place, released.units, low=0.0, high=1.0).to_json()
    out["cells"] = [_cell(released, column, number, label) for number, label in enumerate(labels)]
    if column.kind == "number":
        middle, half = (column.low + column.high) / 2, (column.high - column.low) / 2
        out["bounds"] = [column.low, column.high]
        out["mean"] = _mapped(mean_of(released, column), lambda m: middle + half * m)
        out["spread"] = _mapped(variance_of(released, column), lambda v: half * math.sqrt(v))
    return out


def _cell(released: Released, column: StatedColumn, number: int, label: str) -> dict[str, Any]:
    layout, all_of_it = released.layout, released.cell(column, number)
    out: dict[str, Any] = {
        "label": label,
        "count": released.count(all_of_it).to_json(),
        "share": ratio(released, all_of_it, released.units, low=0.0, high=1.0).to_json(),
    }
    if layout.classes:
        codes = [1] if len(layout.classes) == 2 else range(len(layout.classes))
        out["target"] = {
            layout.classes[code]: ratio(
                released, released.cell(column, number, code), all_of_it, low=0.0, high=1.0
            ).to_json()
            for code in codes
        }
    elif layout.outcome is not None and column is not layout.outcome:
        outcome = layout.outcome
        middle, half = (outcome.low + outcome.high) / 2, (outcome.high - outcome.low) / 2
        start = layout.slices[column.name, "outcome"].start + number
        rate = ratio(released, Line.of(slice(start, start + 1), 1 / HALF), all_of_it, low=-1.0, high=1.0)
        out["target"] = {"mean": _mapped(rate, lambda m: middle + half * m)}
    return out


def _mapped(one: Estimate, function: Any) -> dict[str, float | None]:
    value = None if one.value is None else float(function(one.value))
    return Estimate(value, float(function(one.low)), float(function(one.high))).to_json()
