"""Columns of a client whose rows are images, sequences or items, and frames made of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients._pandas import pd
from clients.errors import SchemaError
from clients.schema import Column
from clients.shapes import Items, Shape

__all__ = ["array_columns", "array_frame", "item_columns"]


def array_columns(
    shape: Shape,
    prefix: str,
    *,
    low: float | Sequence[float],
    high: float | Sequence[float],
    measure: str | Sequence[str] = "",
    sensitive: bool = False,
) -> tuple[Column, ...]:
    """One number column for each number of the shape, in its order.

    Parameters
    ----------
    prefix : str
        Of the columns' names, such as "pixel".
    low, high : float, or one for each channel
        Public bounds of every number; a mask is 0 or 1 whatever these are and is no channel here.
    measure : str, or one for each channel

    Raises
    ------
    SchemaError
        Another number of bounds or measures than of channels.
    """
    names = shape.names(prefix)
    mask = shape.sizes[-1] if getattr(shape, "mask", False) else 0
    channels = shape.sizes[0] - (mask > 0)
    each = (len(names) - mask) // channels
    terms = zip(
        *(_of_channels(what, given, channels) for what, given in (("low", low), ("high", high), ("measure", measure))),
        strict=True,
    )
    repeated = [term for term in terms for _ in range(each)]
    numbers = [
        Column(name=name, dtype="number", low=least, high=most, measure=unit, sensitive=sensitive)
        for name, (least, most, unit) in zip(names, repeated, strict=False)  # the names of a mask come last
    ]
    return (*numbers, *(Column(name=name, dtype="flag") for name in names[len(names) - mask :]))


def item_columns(shape: Items, prefix: str, *, low: float, high: float, measure: str = "") -> tuple[Column, ...]:
    """Columns of ids and values in the order of the shape; an id that is not in the vocabulary breaks its row.

    Parameters
    ----------
    low, high : float
        Public bounds of the values.
    """
    item, *rest = shape.names(prefix)
    many = shape.vocabulary
    return (
        Column(name=item, dtype="integer", low=0, high=many, valid_low=1, valid_high=many),
        *(
            Column(name=name, dtype="integer", low=0, high=many, valid_low=0, valid_high=many)
            for name in rest[: shape.earlier]
        ),
        *(Column(name=name, dtype="number", low=low, high=high, measure=measure) for name in rest[shape.earlier :]),
    )


def _of_channels(what: str, given: Any, channels: int) -> tuple[Any, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        return (given,) * channels
    if len(given) != channels:
        raise SchemaError(f"array: {what}: wanted one for each of {channels} channels, got {len(given)}")
    return tuple(given)


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
