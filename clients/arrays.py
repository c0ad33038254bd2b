"""Columns of a client whose rows are images or sequences, and frames made of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients._pandas import pd
from clients.errors import SchemaError
from clients.schema import Column
from clients.shapes import Shape

__all__ = ["array_columns", "array_frame"]


def array_columns(
    shape: Shape, prefix: str, *, low: float, high: float, measure: str = "", sensitive: bool = False
) -> tuple[Column, ...]:
    """One number column for each number of the shape, in its order.

    Parameters
    ----------
    prefix : str
        Of the columns' names, such as "pixel".
    low, high : float
        Public bounds of every number; a mask is 0 or 1 whatever these are.
    """
    names = shape.names(prefix)
    mask = shape.sizes[-1] if getattr(shape, "mask", False) else 0
    terms: dict[str, Any] = {"measure": measure, "sensitive": sensitive}
    numbers = [Column(name=name, dtype="number", low=low, high=high, **terms) for name in names[: len(names) - mask]]
    return (*numbers, *(Column(name=name, dtype="flag") for name in names[len(names) - mask :]))


def array_frame(shape: Shape, prefix: str, values: NDArray[Any], **columns: Any) -> pd.DataFrame:
    """Rows (n_rows, *sizes) as a frame with the names of `array_columns`, and further columns (n_rows,) beside them.

    Raises
    ------
    SchemaError
        The array has another shape.
    """
    if tuple(values.shape[1:]) != shape.sizes:
        raise SchemaError(f"array: wanted rows of shape {shape.sizes}, got {tuple(values.shape[1:])}")
    frame = pd.DataFrame(np.asarray(values).reshape(len(values), -1), columns=list(shape.names(prefix)))
    return frame.assign(**columns)
