"""Says what a declared column may not be: everything here is public."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from clients import _values
from clients._features import NUMERIC

if TYPE_CHECKING:
    from clients.schema import Column


def column_problem(column: Column) -> str:
    """Return what is wrong with a column as it is declared, in words; an empty text when nothing is."""
    low, high = column.low, column.high
    if column.is_feature and column.dtype in NUMERIC:
        if low is None or high is None or not (math.isfinite(low) and math.isfinite(high) and low < high):
            return f"wanted finite public bounds low < high, got {low}, {high}"
        if isinstance(column.impute, str) or (column.impute is not None and not low <= column.impute <= high):
            return f"impute must lie within [{low}, {high}]"
    if column.dtype == "flag" and column.impute not in {None, 0, 1}:
        return "impute must be 0 or 1"
    if problem := _category_problem(column):
        return problem
    if (column.identifier == "generalise") != (column.generalise is not None):
        return "wanted `generalise` exactly when identifier is 'generalise'"
    if not column.required and column.is_feature and not column.nullable:
        return "a feature that is not required must be nullable"
    return ""


def _category_problem(column: Column) -> str:
    if column.dtype != "category":
        given = "categories" if column.categories else "scores" if column.scores else ""
        return f"{given} are for dtype 'category', not {column.dtype!r}" if given else ""
    if not column.categories or len(set(column.categories)) != len(column.categories):
        return "wanted a list of distinct categories"
    if lost := [c for c in column.categories if _values.text(c, column.missing_values) is None]:
        return f"wanted categories that are no spelling of a missing value, got {lost[0]!r}; call it otherwise"
    if column.impute is not None and column.impute not in column.categories:
        return f"impute must be one of {column.categories}"
    if column.scores and len(column.scores) != len(column.categories):
        return f"wanted a score for each of {len(column.categories)} categories, got {len(column.scores)}"
    if not all(-1 <= score <= 1 for score in column.scores):
        return f"scores must lie within [-1, 1], got {column.scores}"
    return ""
