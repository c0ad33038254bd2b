"""Reads single values: missing ones, numbers in text, identifiers that have to be hidden."""

from __future__ import annotations

import hmac
import re
from typing import Any

import numpy as np
import pandas as pd

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
#: "f" and "t" are not among them: beside "m" the first is a woman, not a no.
FLAGS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}
_WHOLE = re.compile(r"^(-?\d+)\.0+$")


def texts(values: pd.Series[Any], missing: tuple[str, ...] = ()) -> pd.Series[Any]:
    """Each value as stripped text, whole numbers without ".0", None where missing.

    A file, a Parquet column and a database give the same number as text, float, int or Decimal; from here on
    they are one.
    """
    return pd.Series([text(value, missing) for value in values], index=values.index, dtype=object)


def text(value: Any, missing: tuple[str, ...] = ()) -> str | None:
    """One value as `texts` has it."""
    if (
        value is None
        or value is pd.NA
        or (isinstance(value, (float, np.floating)) and np.isnan(value))
        or value is pd.NaT
    ):
        return None
    if isinstance(value, (bool, np.bool_)):
        return "1" if value else "0"
    read = repr(float(value)) if isinstance(value, (float, np.floating)) else str(value).strip()
    if read in BLANK:
        return None
    whole = _WHOLE.match(read)
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
    read = flag if dtype == "flag" else number
    parsed = np.array([np.nan if v is None else read(v) for v in values], dtype=np.float64)
    if dtype == "integer":
        parsed = np.where(parsed == np.floor(parsed), parsed, np.nan)
    return pd.Series(parsed, index=values.index)


def pseudonym(key: bytes, *parts: str) -> str:
    """A keyed hash (HMAC-SHA256, 128 bits in hex) of the parts, which cannot run into each other."""
    message = b"".join(len(p.encode()).to_bytes(8, "big") + p.encode() for p in parts)
    return hmac.digest(key, message, "sha256").hex()[:32]
