"""Several labels of one row: how they are spelled, and the one number that stands for them.

A row's labels are written in one text, `effusion|nodule` in the order of the schema, and `-` for none of them. Their
code is the sum of 2 ** place over the labels that are there. Everything here is a function of one row and of public
constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from clients import _values
from clients._pandas import pd

if TYPE_CHECKING:
    from clients._target import Target

__all__ = [
    "MOST",
    "NONE",
    "SEPARATOR",
    "bits",
    "canonical",
    "codes",
    "joined",
    "label_by_label",
    "one_column",
    "problem",
]

#: Labels that a target may have: their codes stay exact as float64, which metrics use.
MOST: Final = 32
SEPARATOR, NONE = "|", "-"
_LISTS = (list, tuple, set, frozenset, np.ndarray)


def problem(classes: tuple[str, ...]) -> str:
    """Return why these cannot be the labels of a row; nothing where they can."""
    if not 2 <= len(classes) <= MOST or len(set(classes)) < len(classes):
        return f"wanted 2 to {MOST} different labels for multilabel, got {len(classes)}"
    if odd := [name for name in classes if SEPARATOR in name or name != name.strip() or name == NONE]:
        return f"wanted labels without {SEPARATOR!r}, that are not {NONE!r}, got {odd[0]!r}; call it otherwise"
    return ""


def canonical(target: Target, text: str | None) -> str | None:
    """Return the labels of a text in the order of the schema; `UNREADABLE` where one of them is none of the target's.

    A mapping is asked label by label; what it leads to the empty text is no label (`No Finding`, say).
    """
    if text is None or text == NONE:
        return text
    said = [part.strip() for part in text.split(SEPARATOR)]
    named = {target.mapping.get(part, _values.UNREADABLE) if target.mapping else part for part in said} - {""}
    if "" in said or not named <= set(target.classes):
        return _values.UNREADABLE
    return SEPARATOR.join(name for name in target.classes if name in named) or NONE


def one_column(target: Target, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame (n_rows, …) with a row's labels as one text in the target's column.

    They may be there as a text, as a list (Parquet), or as a column of 0 and 1 for each label: called as the label is,
    or `NAME.0`, `NAME.1` … in the order of the schema, as a source makes them of an array. A row in which one of these
    is missing has no text.
    """
    if target.name in frame:
        cells = frame[target.name]
        return frame if cells is (told := joined(cells)) else frame.assign(**{target.name: told})
    by_name, by_place = list(target.classes), [f"{target.name}.{place}" for place in range(target.outputs)]
    columns = next((names for names in (by_name, by_place) if set(names) <= set(frame.columns)), None)
    if columns is None or not all(isinstance(frame[name], pd.Series) for name in columns):
        return frame
    flags = np.array([_values.numbers(_values.texts(frame[name]), "flag") for name in columns])
    gaps = np.array([_values.texts(frame[name]).isna() for name in columns])
    rows = [_of_flags(target, one, gap) for one, gap in zip(flags.T, gaps.T, strict=True)]
    made = frame.drop(columns=columns).assign(**{target.name: pd.Series(rows, index=frame.index, dtype=object)})
    made.attrs = dict(frame.attrs)
    return made


def joined(cells: pd.Series[Any]) -> pd.Series[Any]:
    """Return the same series (n_rows,), its lists as texts."""
    if cells.dtype != object or not any(isinstance(cell, _LISTS) for cell in cells):
        return cells
    return pd.Series(map(_joined, cells), index=cells.index, dtype=object)


def label_by_label(decoded: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """Return the function that decodes each label of a text by itself; a label that it does not know is unreadable."""

    def whole(text: str) -> str | None:
        if text == NONE:
            return NONE
        told = [decoded(part.strip()) for part in text.split(SEPARATOR)]
        if None in told or _values.UNREADABLE in told:
            return _values.UNREADABLE if _values.UNREADABLE in told else None
        return SEPARATOR.join(str(one) for one in told if one != NONE) or NONE

    return whole


def _joined(cell: Any) -> Any:
    if not isinstance(cell, _LISTS):
        return cell
    words = [_values.text(one) for one in cell]
    if any(word is None or SEPARATOR in word for word in words):
        return _values.UNREADABLE
    return SEPARATOR.join(str(word) for word in words) or NONE


def _of_flags(target: Target, flags: NDArray[np.float64], gaps: NDArray[np.bool_]) -> str | None:
    if gaps.any():
        return None
    if np.isnan(flags).any():
        return _values.UNREADABLE
    spelled = {name: value for value, name in target.mapping.items()}
    there = [spelled.get(name, name) for name, flag in zip(target.classes, flags, strict=True) if flag]
    return SEPARATOR.join(there) or NONE


def codes(target: Target, texts: pd.Series[Any]) -> NDArray[np.int64]:
    """Return the code (n_rows,) of each canonical text."""
    place = {name: 1 << number for number, name in enumerate(target.classes)}
    known = {text: 0 if text == NONE else sum(place[name] for name in text.split(SEPARATOR)) for text in set(texts)}
    return np.array([known[text] for text in texts], dtype=np.int64)


def bits(codes: NDArray[Any], labels: int) -> NDArray[np.float64]:
    """Return 0 or 1 for each label, shape (n_rows, labels), of codes (n_rows,)."""
    whole = np.asarray(codes).astype(np.int64)
    return ((whole[:, None] >> np.arange(labels)) & 1).astype(np.float64)
