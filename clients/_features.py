"""Turns a checked column into features, one row at a time, with public constants only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients._pandas import pd

if TYPE_CHECKING:
    from clients.schema import Column, Derived

NUMERIC = ("number", "integer")

# (visible frame, derived columns by name) -> one feature (n_rows,)
Compute = Callable[["pd.DataFrame", Mapping[str, "pd.Series[Any]"]], NDArray[np.float64]]


def _scaled(values: NDArray[np.float64], low: float, high: float, impute: float | None) -> NDArray[np.float64]:
    """Clamp to the public bounds and scale to [-1, 1]; what is not finite becomes `impute` or the middle."""
    middle, half = (low + high) / 2, (high - low) / 2
    filled = np.where(np.isfinite(values), values, middle if impute is None else impute)
    return (np.clip(filled, low, high) - middle) / half


def _floats(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """A numeric column, or NaN where an optional column is absent."""
    return frame[name].to_numpy(np.float64) if name in frame else np.full(len(frame), np.nan)


def _missing(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    return frame[name].isna().to_numpy().astype(np.float64) if name in frame else np.ones(len(frame))


def column_features(column: Column, indicators: bool, drop_first: bool) -> list[tuple[str, Compute]]:
    name = column.name

    def number(frame: pd.DataFrame, _: Mapping[str, pd.Series[Any]]) -> NDArray[np.float64]:
        assert column.low is not None
        assert column.high is not None
        impute = None if column.impute is None else float(column.impute)
        return _scaled(_floats(frame, name), column.low, column.high, impute)

    def flag(frame: pd.DataFrame, _: Mapping[str, pd.Series[Any]]) -> NDArray[np.float64]:
        return np.nan_to_num(_floats(frame, name), nan=float(column.impute or 0))

    def is_missing(frame: pd.DataFrame, _: Mapping[str, pd.Series[Any]]) -> NDArray[np.float64]:
        return _missing(frame, name)

    def one_of(category: str) -> Compute:
        def one_hot(frame: pd.DataFrame, _: Mapping[str, pd.Series[Any]]) -> NDArray[np.float64]:
            here = (frame[name] == category).to_numpy(np.float64) if name in frame else np.zeros(len(frame))
            imputed: NDArray[np.float64] = here + _missing(frame, name) * (column.impute == category)
            return imputed

        return one_hot

    def score(frame: pd.DataFrame, _: Mapping[str, pd.Series[Any]]) -> NDArray[np.float64]:
        table = dict(zip(column.categories, column.scores, strict=True))
        imputed = table.get(str(column.impute), 0.0)
        if name not in frame:
            return np.full(len(frame), imputed)
        return np.array([table.get(value, imputed) for value in frame[name]], dtype=np.float64)

    own_category = True
    if column.dtype == "category" and column.scores:
        features: list[tuple[str, Compute]] = [(name, score)]
        own_category = column.impute is None
    elif column.dtype == "category":
        listed = column.categories[1:] if drop_first else column.categories
        features = [(f"{name}={category}", one_of(category)) for category in listed]
        own_category = column.impute is None
    else:
        features = [(name, number if column.dtype in NUMERIC else flag)]
    if column.nullable and indicators and own_category:
        features.append((f"{name} is missing", is_missing))
    return features


def column_kinds(column: Column, indicators: bool, drop_first: bool) -> list[str]:
    """What each of the column's features is: "number", "score", "category", "flag" or "missing"."""
    if column.dtype == "category":
        kind = "score" if column.scores else "category"
    else:
        kind = "number" if column.dtype in NUMERIC else "flag"
    names = [name for name, _ in column_features(column, indicators, drop_first)]
    # A missing category is one more place of the one-hot. Other columns have a flag beside the value for that.
    return [kind if name == column.name or kind == "category" else "missing" for name in names]


def derived_feature(derived: Derived) -> Compute:
    def compute(_: pd.DataFrame, values: Mapping[str, pd.Series[Any]]) -> NDArray[np.float64]:
        return _scaled(values[derived.name].to_numpy(np.float64), derived.low, derived.high, None)

    return compute
