"""Writes a client's file (`clients.declared`) from somebody's rows, at home, for a person to correct and confirm.

Bounds, categories and classes read from rows are marked `to_confirm`: they stand in everybody's file, and no budget
pays for them. Bounds are rounded outwards, to two digits of their distance.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import tomlkit

from clients import _values, measures
from clients.errors import TableError

__all__ = ["Proposal", "propose"]

Kind = Literal["binary", "multiclass", "regression"]
MOST_CATEGORIES: Final = 50
MOST_CLASSES: Final = 20
#: Numbers that often stand for "missing", where they lie far from all others.
CODES: Final = (-9.0, -99.0, -999.0, -9999.0, -1.0, 99.0, 999.0, 9999.0, 99999.0)
#: A column that numbers rows: its usual names, the fewest rows for such a guess, the share of its steps that are 1.
_NUMBERING: Final = re.compile(r"(?:^|[^a-z])(?:id|key|nr|no|uuid|index|idx|rowid)$|[a-z]Id$|ID$")
_FEW: Final = 20
_COUNTING: Final = 0.9
_MEASURE: Final = re.compile(r"[\[(]([^\])]+)[\])]\s*$")
#: Learning rate of a linear model by kind of target; with it a run does not diverge (see docs/design/0026).
RECIPES: Final[dict[str, dict[str, float]]] = {
    "binary": {"learning_rate": 1.0},
    "multiclass": {"learning_rate": 1.0},
    "regression": {"learning_rate": 0.2},
}


@dataclass
class Proposal:
    """A client's file as text, and what a person should look at.

    Attributes
    ----------
    text : str
        TOML.
    notes : list of str
        A sentence for each guess; they name columns, never values.
    kind : str
        Of the target.
    """

    text: str
    kind: str
    notes: list[str] = field(default_factory=list)


@dataclass
class _Part:
    """One table of the file: its keys in order, and which of them were read from rows."""

    keys: dict[str, Any]
    read: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        lines = [f"{key} = {_toml(value)}" for key, value in self.keys.items()]
        if self.read:
            lines.append(f"to_confirm = {_toml(self.read)}")
        return lines


def propose(
    frames: Sequence[pd.DataFrame],
    name: str,
    target: str,
    *,
    kind: Kind | None = None,
    unit: str = "record",
    identifiers: Iterable[str] = (),
    sites: Sequence[str] = (),
) -> Proposal:
    """Return a client's file that fits these rows.

    Parameters
    ----------
    frames : sequence of DataFrame (n_rows, any columns)
        As the source `csv:` reads them, one or more participants'; names may differ in case alone. The columns are
        those of the first; others say of each what they have under its name.
    target : str
        The column that is predicted: text, flags and at most 20 distinct whole numbers are classes.
    kind : {"binary", "multiclass", "regression"}, optional
        Where that rule is wrong.
    unit : str
        The column that says whose row it is; it is hashed and never a feature.
    identifiers : iterable of str
        Further columns that name somebody; they are dropped.

    Raises
    ------
    TableError
        Naming the column, wanted and got; never a value.
    """
    first = list(frames[0].columns)
    spelled = {str(each).casefold(): str(each) for each in first}
    named = [f.rename(columns={c: spelled.get(str(c).casefold(), c) for c in f.columns}) for f in frames]
    if not all(each.columns.is_unique for each in named):
        raise TableError("wanted each column once, got one twice; rename or drop it")
    columns_there = {column for each in named for column in each.columns}
    target = spelled.get(target.casefold(), target)
    for wanted, what in ((target, "target"), (unit, "unit"), *((each, "identifier") for each in identifiers)):
        if wanted not in columns_there and (what, wanted) != ("unit", "record"):
            raise TableError(f"{what}: wanted a column of the rows, got {wanted!r}; correct the name")
    made = Proposal("", "")
    # Only files that have the column count. Another name for it in a file does not mean that its values are missing.
    texts = {
        column: _values.texts(pd.concat([each[column] for each in named if column in each], ignore_index=True))
        for column in {*first, target}
    }
    goal = _target(target, texts[target], kind, made)
    columns = {}
    for column in first:
        if column == target:
            continue
        if column == unit:
            columns[column] = _Part({"dtype": "text", "identifier": "hash", "nullable": True, "required": False})
        elif column in identifiers:
            columns[column] = _Part({"dtype": "text", "identifier": "drop", "nullable": True, "required": False})
        else:
            columns[column] = _column(column, texts[column], made)
            codes = columns[column].keys.get("categories", ())
            if codes and all(re.fullmatch("[A-Z]{2}", code) for code in codes) and _says_na(named, column):
                made.notes.append(
                    f"{column}: NA is read as missing; where it is a code (Namibia), name another one for it here, and "
                    'map it in each policy: values = { NA = "…" }'
                )
    made.text = _document(name, unit, sites, goal, columns, made.kind)
    return made


def _says_na(frames: Sequence[pd.DataFrame], column: str) -> bool:
    return any(bool((frame[column].astype(str).str.strip() == "NA").any()) for frame in frames if column in frame)


def _document(name: str, unit: str, sites: Sequence[str], goal: _Part, columns: dict[str, _Part], kind: str) -> str:
    lines = [
        f"# The industry {name}, as data: see docs/how_to/industry.md. Every participant must have this file alike.",
        "# `to_confirm` marks what was read from rows. Put in what is publicly known instead (a text book, a published",
        f"# code list, the data sheet of a device), then say `consortia client confirm {name}`.",
        "schema = 1",
        f"name = {_toml(name)}",
        "version = 1",
    ]
    if unit != "record":
        lines.append(f"unit = {_toml(unit)}  # whom one unit of privacy is; each policy decides for its own rows")
    if sites:
        lines.append(f"sites = {_toml(list(sites))}")
    lines += ["", "[target]", *goal.lines()]
    for column, part in columns.items():
        lines += ["", f"[columns.{tomlkit.key(column).as_string()}]", *part.lines()]
    recipe = {"model": {"kind": "linear"}, "local_steps": 2, "sampling_rate": 1.0, "clip": 1.0, **RECIPES[kind]}
    lines += ["", "[recipe]  # what a contract says of this industry unless it says otherwise", "rounds = 20"]
    lines += [f"{key} = {_toml(value)}" for key, value in recipe.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    if isinstance(value, float) and value == math.floor(value) and abs(value) < 1e15:
        return f"{value:.1f}"
    return str(tomlkit.item(value).as_string())


def _numbers(texts: pd.Series[Any]) -> pd.Series[float] | None:
    """The present values as numbers; None where one of them is none."""
    present = texts.dropna()
    numbers = _values.numbers(present, "number")
    return None if present.empty or numbers.isna().any() else numbers


def _column(name: str, texts: pd.Series[Any], made: Proposal) -> _Part:
    present = texts.dropna()
    if present.empty:
        made.notes.append(f"{name}: no value in any row; it is left out of the features")
        return _Part({"dtype": "text", "feature": False, "nullable": True, "required": False})
    nullable = {"nullable": True} if len(present) < len(texts) else {}
    spellings = {each.casefold() for each in present}
    if spellings <= set(_values.FLAGS):
        return _Part({"dtype": "flag", **nullable})
    numbers = _numbers(texts)
    if numbers is not None and _numbered(name, numbers):
        made.notes.append(
            f"{name}: a different whole number in each row, so it is taken for an identifier and dropped; "
            'identifier = "hash" if it says whose row it is, dtype = "number" with bounds if it is measured'
        )
        return _Part({"dtype": "text", "identifier": "drop", "nullable": True, "required": False})
    if numbers is not None:
        return _number(name, numbers, nullable, made)
    categories = sorted(set(present))
    if len(categories) > MOST_CATEGORIES:
        unique = len(categories) == len(present)
        made.notes.append(
            f"{name}: {'a different text in each row' if unique else f'more than {MOST_CATEGORIES} texts'}, so it is "
            'taken for an identifier and dropped; identifier = "hash" if it says whose row it is'
        )
        return _Part({"dtype": "text", "identifier": "drop", "nullable": True, "required": False})
    return _Part({"dtype": "category", "categories": categories, **nullable}, ["categories"])


def _numbered(name: str, numbers: pd.Series[float]) -> bool:
    """Return whether rows are numbered by this column: by its name, or because it counts on from row to row."""
    whole = bool((numbers == np.floor(numbers)).all())
    if not whole or len(numbers) < _FEW or numbers.nunique() < len(numbers):
        return False
    steps = np.diff(numbers.to_numpy())
    return _NUMBERING.search(name) is not None or bool((steps == 1).mean() > _COUNTING)


def _number(name: str, numbers: pd.Series[float], nullable: dict[str, bool], made: Proposal) -> _Part:
    codes = _missing_codes(numbers)
    kept = numbers[~numbers.isin(codes)]
    if codes:
        made.notes.append(
            f"{name}: {len(codes)} number(s) far from all others are taken for a spelling of missing (missing_values)"
        )
    low, high = _bounds(kept)
    keys: dict[str, Any] = {"dtype": "number"}
    if (found := _MEASURE.search(name)) and measures.known(found[1]):
        keys["measure"] = found[1]
    keys |= {"low": low, "high": high, **({"nullable": True} if codes else nullable)}
    if not codes:
        return _Part(keys, ["low", "high"])
    keys["missing_values"] = [f"{code:g}" for code in codes]
    return _Part(keys, ["low", "high", "missing_values"])


def _missing_codes(numbers: pd.Series[float]) -> list[float]:
    """Numbers of `CODES` that several rows have, and that lie further from the rest than the rest is wide."""
    codes: list[float] = []
    for code in CODES:
        rest = numbers[~numbers.isin([*codes, code])]
        if (numbers == code).sum() < 2 or len(rest) < 10:
            continue
        width = max(float(rest.max() - rest.min()), 1.0)
        if code < rest.min() - width or code > rest.max() + width or (code < 0 <= rest.min() and code <= -9):
            codes.append(code)
    return codes


def _bounds(numbers: pd.Series[float]) -> tuple[float, float]:
    """Least and largest value, rounded outwards to two digits of their distance."""
    low, high = float(numbers.min()), float(numbers.max())
    if low == high:
        low, high = low - max(1.0, abs(low)), high + max(1.0, abs(high))
    step = 10.0 ** (math.floor(math.log10(high - low)) - 1)
    digits = max(0, -math.floor(math.log10(step)))
    return round(math.floor(low / step) * step, digits), round(math.ceil(high / step) * step, digits)


def _target(name: str, texts: pd.Series[Any], kind: Kind | None, made: Proposal) -> _Part:
    present = texts.dropna()
    numbers = _numbers(texts)
    whole = numbers is not None and bool((numbers == np.floor(numbers)).all())
    distinct = sorted(set(present), key=_values.number if whole else str)
    if kind is None:
        classes = numbers is None or (whole and len(distinct) <= MOST_CLASSES)
        kind = "regression" if not classes else "binary" if len(distinct) == 2 else "multiclass"
    made.kind = kind
    if kind == "regression":
        if numbers is None:
            raise TableError(f"target {name!r}: wanted numbers for a regression, got other values; name another kind")
        low, high = _bounds(numbers)
        return _Part({"name": name, "kind": kind, "low": low, "high": high}, ["low", "high"])
    if len(distinct) < 2 or len(distinct) > MOST_CATEGORIES or (kind == "binary") != (len(distinct) == 2):
        raise TableError(
            f"target {name!r}: wanted {'2' if kind == 'binary' else f'3 to {MOST_CATEGORIES}'} classes for {kind}, got "
            f"{len(distinct)} different values; is it the right column? --kind says otherwise"
        )
    return _Part({"name": name, "kind": kind, "classes": distinct}, ["classes"])
