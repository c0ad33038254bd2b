"""Public groups of rows by one column of the schema, for measuring a model group by group.

Guarantee: which groups there are follows from the schema and public cuts; in which one a row is, from that row alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients._pandas import pd
from clients.errors import SchemaError
from clients.schema import Column, Schema

__all__ = ["MISSING", "MOST", "Grouping"]

#: The group of rows without a value; in brackets where a category has a value of that name.
MISSING = "missing"
MOST = 12


@dataclass(frozen=True)
class Grouping:
    """By which column rows are grouped; `cuts` are the public borders of a number's groups."""

    column: str
    cuts: tuple[float, ...] = ()

    def names(self, schema: Schema) -> tuple[str, ...]:
        """Return the groups in the order of their codes.

        Raises
        ------
        SchemaError
            The column is none of the schema, or has no 2 to 12 public groups.
        """
        column = schema.column(self.column)
        found = self._values(schema, column)
        if _may_lack(column):
            missing = MISSING
            while missing in found:
                missing = f"({missing})"
            found = (*found, missing)
        if not 2 <= len(found) <= MOST:
            raise SchemaError(f"column {self.column!r}: wanted 2 to {MOST} public groups, got {len(found)}")
        return found

    def codes(self, schema: Schema, frame: pd.DataFrame) -> NDArray[np.int64]:
        """Return the group of each row (n_rows,) of a frame that `Schema.check` returned; -1 without a value and a
        group for that.
        """
        names, column = self.names(schema), schema.column(self.column)
        found = np.full(len(frame), len(names) - 1 if _may_lack(column) else -1, dtype=np.int64)
        if self.column not in frame:
            return found
        values = frame[self.column]
        there = values.notna().to_numpy(bool)
        if column.dtype == "category":
            place = {value: code for code, value in enumerate(column.categories)}
            found[there] = [place[value] for value in values[there]]
        elif column.dtype == "flag":
            found[there] = values[there].to_numpy(np.float64) == 1
        else:
            found[there] = np.searchsorted(np.asarray(self.cuts), values[there].to_numpy(np.float64), side="right")
        return found

    def _values(self, schema: Schema, column: Column) -> tuple[str, ...]:
        where = f"schema {schema.name!r}: column {column.name!r}"
        if column.identifier in {"drop", "hash"} or column.dtype == "text":
            raise SchemaError(f"{where}: wanted a category, a flag or a number, got text or an identifier")
        if column.dtype in {"category", "flag"}:
            if self.cuts:
                raise SchemaError(f"{where}: cuts: wanted none, since it is a {column.dtype}, got some")
            return column.categories if column.dtype == "category" else (f"{column.name}=0", f"{column.name}=1")
        if not self.cuts or list(self.cuts) != sorted(set(self.cuts)) or not np.isfinite(self.cuts).all():
            raise SchemaError(
                f"{where}: cuts: wanted public borders of its groups in rising order, such as [30, 60], got "
                f"{list(self.cuts)}"
            )
        cuts = [_written(cut) for cut in self.cuts]
        between = [f"{low} <= {column.name} < {high}" for low, high in itertools.pairwise(cuts)]
        return (f"{column.name} < {cuts[0]}", *between, f"{column.name} >= {cuts[-1]}")


def _may_lack(column: Column) -> bool:
    """Return whether a row may have no value in it."""
    return column.nullable or not column.required


def _written(cut: float) -> str:
    """Return a border in the shortest form that is no other number's: two borders never look alike."""
    short = f"{cut:g}"
    return short if float(short) == cut else repr(float(cut))
