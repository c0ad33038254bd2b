"""Reads single values: missing ones, numbers in text, identifiers that have to be hidden."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients._pandas import pd

# For simulation and tests. A participant passes its own: whoever knows the key can try out identifiers.
DEMO_KEY = b"consortia: a public key, for simulation only"

#: What pandas reads as missing, and "?".
BLANK = frozenset(
    (
        *("", "?", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    )
)
UNREADABLE = "\0"  # no text of a source: pandas and databases do not give it
#: "f" and "t" are not among them: beside "m", "f" means female, not false.
FLAGS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}
_WHOLE = re.compile(r"^(-?\d+)\.0+$")


def texts(values: pd.Series[Any], missing: tuple[str, ...] = (), kept: Collection[str] = ()) -> pd.Series[Any]:
    """Each value as stripped text, whole numbers without ".0", None where missing; `kept` are texts all the same.

    A file, a Parquet column and a database give the same number as text, float, int or Decimal; from here on
    they are one.
    """
    return pd.Series(by_value(values, lambda value: text(value, missing, kept)), index=values.index, dtype=object)


def coded(values: pd.Series[Any], missing: tuple[str, ...] = ()) -> tuple[NDArray[np.int64], list[str | None]]:
    """`texts` as a number (n_rows,) for each row and the text of each number; the last one, with -1, is None."""
    codes, distinct = codes_of(values)
    if codes is None:
        codes, distinct = np.arange(len(values)), list(values)
    return codes, [*(text(value, missing) for value in distinct), None]


def by_value(values: pd.Series[Any], function: Callable[[Any], Any]) -> NDArray[np.object_]:
    """`function` of each value (n_rows,), asked once for each value that differs where that is safe.

    Values are one only if they are the same to the bit: 1 and 1.0, or 0.0 and -0.0, have texts of their own.
    """
    codes, distinct = codes_of(values)
    if codes is None:
        return _objects([function(value) for value in values])
    # What is missing has the code -1, which takes the last place.
    return _objects([*map(function, distinct), function(None)])[codes]


def codes_of(values: pd.Series[Any]) -> tuple[NDArray[np.int64] | None, Sequence[Any]]:
    """A number (n_rows,) for each value, -1 for a missing one, and the values by number; None where they are mixed."""
    kind = values.dtype
    if kind == np.float64:
        codes, bits = pd.factorize(values.to_numpy().view(np.int64))
        return codes, bits.view(np.float64).tolist()
    if isinstance(kind, np.dtype) and kind.kind in "iu":
        codes, whole = pd.factorize(values.to_numpy())
        return codes, whole.tolist()
    objects = isinstance(kind, np.dtype) and kind.kind == "O"
    if isinstance(kind, pd.StringDtype) or (objects and pd.api.types.infer_dtype(values, skipna=True) == "string"):
        codes, words = pd.factorize(values)
        return codes, list(words)
    return None, ()


def _objects(values: list[Any]) -> NDArray[np.object_]:
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def text(value: Any, missing: tuple[str, ...] = (), kept: Collection[str] = ()) -> str | None:
    """One value as `texts` has it."""
    if not isinstance(value, str) and (
        value is None
        or value is pd.NA
        or (isinstance(value, (float, np.floating)) and np.isnan(value))
        or value is pd.NaT
    ):
        return None
    if isinstance(value, (bool, np.bool_)):
        return "1" if value else "0"
    read = repr(float(value)) if isinstance(value, (float, np.floating)) else str(value).strip()
    if read in BLANK and (not read or read not in kept):
        return None
    whole = _WHOLE.match(read) if read[-1] == "0" else None
    read = whole.group(1) if whole else read
    return None if read in missing else read


def number(text: str) -> float:
    """A finite number, or NaN. Python's `1_0` is no number in a file."""
    if "_" in text:
        return np.nan
    try:
        value = float(text)
    except ValueError:
        return np.nan
    return value if np.isfinite(value) else np.nan


def flag(text: str) -> float:
    """0, 1, or NaN."""
    return FLAGS.get(text.lower(), np.nan)


def numbers(values: pd.Series[Any], dtype: str) -> pd.Series[float]:
    """Text to float64: NaN where it is missing or is not what `dtype` ("number", "integer", "flag") wants."""
    return pd.Series(by_value(values, lambda v: number_of(v, dtype)).astype(np.float64), index=values.index)


def number_of(text: str | None, dtype: str) -> float:
    """One value as `numbers` has it."""
    if text is None:
        return np.nan
    value = flag(text) if dtype == "flag" else number(text)
    return np.nan if dtype == "integer" and not value.is_integer() else value


def pseudonym(key: bytes, *parts: str) -> str:
    """A keyed hash (HMAC-SHA256, 128 bits in hex) of the parts, which cannot run into each other."""
    return hmac.digest(key, b"".join(map(_part, parts)), "sha256").hex()[:32]


def digests(key: bytes, constant: Sequence[str], columns: Sequence[pd.Series[Any]], spell: Callable[[Any], str]) -> Any:
    """Yield the whole keyed hash (32 bytes) of the constant parts and one part of each column, row by row.

    The first 32 hexadecimal digits of each are `pseudonym(key, *constant, *(spell(value) for each value of the row))`.
    """
    begin = b"".join(map(_part, constant))
    parts = [by_value(values, lambda value: _part(spell(value))).tolist() for values in columns]
    digest, join = hmac.digest, b"".join
    for row in zip(*parts, strict=True):
        yield digest(key, begin + join(row), "sha256")


def _part(text: str) -> bytes:
    data = text.encode()
    return len(data).to_bytes(8, "big") + data
