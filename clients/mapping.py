"""Turns a participant's own columns into the schema's: names, codes, units of measure, dates of birth, expressions.

    [dataset.heart.mapping.sex]
    column = "Geschlecht"
    values = { M = "1", F = "0" }

Every rule is a function of one row and of the participant's policy, so no row depends on another. What a rule does not
know is set apart by the schema's check, with its count; it never becomes another value.
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import numpy as np
import pandas as pd

from clients import _labels, _values
from clients._checking import plain_name
from clients.errors import SchemaError
from clients.expressions import parse
from clients.mapping_rules import ColumnMap
from clients.measures import conversion
from clients.schema import Column, Schema

__all__ = ["ColumnMap", "apply"]

_CODED: Final = ("flag", "category", "class")


def apply(mapping: Mapping[str, ColumnMap], frame: pd.DataFrame, schema: Schema, where: str) -> pd.DataFrame:
    """Return the frame (n_rows, …) with the schema's columns in place of the source's that they come from.

    Parameters
    ----------
    mapping : mapping
        From the schema's name; a column without a rule is taken as it is.
    where : str
        What errors call the mapping, such as "dataset.heart.mapping".

    Raises
    ------
    SchemaError
        A rule names a column that schema or source lacks, leads to a value that the schema does not know, or wants a
        conversion that there is not. No message holds a value of a row.
    """
    source = _Source(frame, where)
    known = {column.name: column for column in schema.columns}
    made: dict[str, pd.Series[Any]] = {}
    for name, rule in mapping.items():
        if name not in known and name != schema.target.name:
            near = difflib.get_close_matches(name, [*known, schema.target.name], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"wanted one of {', '.join([*known, schema.target.name])}"
            raise SchemaError(f"{where}.{name}: no column of schema {schema.name!r}; {hint}")
        made[name] = _mapped(name, rule, known.get(name), schema, source)
    # A column that differs from a mapped one in case alone is another's: the rule said which one is meant.
    ours = {plain_name(name) for name in made}
    others = {*known, schema.target.name} - set(made)
    kept = frame[[column for column in frame.columns if column in others or plain_name(str(column)) not in ours]]
    result = pd.concat([kept, pd.DataFrame(made, index=frame.index)], axis=1)
    result.attrs = dict(frame.attrs)
    return result


class _Source:
    """The source's columns by name, as text."""

    def __init__(self, frame: pd.DataFrame, where: str) -> None:
        self.frame, self.where = frame, where
        self._names: dict[str, list[int]] = {}
        for place, name in enumerate(frame.columns):
            self._names.setdefault(str(name).strip().casefold(), []).append(place)

    def texts(self, name: str, key: str, missing: tuple[str, ...] = (), kept: Collection[str] = ()) -> pd.Series[Any]:
        places = self._names.get(name.strip().casefold(), [])
        exact = [place for place in places if self.frame.columns[place] == name]
        if len(places) > 1 and len(exact) != 1:
            raise SchemaError(
                f"{key}: wanted column {name!r} once in the source, got it {len(places)} times; rename it"
            )
        if not places:
            near = difflib.get_close_matches(name, [str(each) for each in self.frame.columns], 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {self.frame.shape[1]} columns of other names"
            raise SchemaError(f"{key}: wanted column {name!r} in the source, got none; {hint}")
        return _values.texts(_labels.joined(self.frame.iloc[:, (exact or places)[0]]), missing, kept)


def _mapped(name: str, rule: ColumnMap, column: Column | None, schema: Schema, source: _Source) -> pd.Series[Any]:
    key = f"{source.where}.{name}"
    index = source.frame.index
    if rule.constant is not None:
        return pd.Series([_legal(rule.constant, column, schema, f"{key}.constant")] * len(index), index, dtype=object)
    if rule.expression:
        return _computed(rule.expression, source, f"{key}.expression")
    # A code that the owner names is a code, even where it is spelled as a missing value: NA is Namibia, too.
    texts = source.texts(rule.column or name, f"{key}.column", rule.missing, rule.values)
    if rule.values or rule.prefixes:
        decoder = _decoder(rule, column, schema, key)
        several = column is None and schema.target.kind == "multilabel"
        return _each(texts, _labels.label_by_label(decoder) if several else decoder)
    if rule.measure:
        if column is None or column.dtype not in {"number", "integer"}:
            wanted = schema.target.measure if column is None and schema.target.kind == "regression" else ""
        else:
            wanted = column.measure
        if not wanted:
            raise SchemaError(f"{key}.measure: wanted a number with a unit of measure in the schema, got none there")
        return _each(texts, _converter(rule, wanted, key))
    if rule.born:
        return _ages(texts, rule, source, key)
    return texts


def _each(texts: pd.Series[Any], function: Callable[[str], str | None]) -> pd.Series[Any]:
    """Apply a function to each distinct text once."""
    known = {text: function(text) for text in texts.dropna().unique()}
    return pd.Series([None if text is None else known[text] for text in texts], index=texts.index, dtype=object)


def _legal(value: str, column: Column | None, schema: Schema, key: str) -> str | None:
    """Return what a rule leads to; SchemaError when the schema does not know it."""
    text = _values.text(value)
    allowed: tuple[str, ...] = ()
    if column is None and schema.target.kind != "regression":
        allowed = tuple(schema.target.mapping) or schema.target.classes
    elif column is not None and column.dtype == "category":
        allowed = column.categories
    elif column is not None and column.dtype == "flag":
        allowed = ("0", "1", "yes", "no", "true", "false")
    if column is None and schema.target.kind == "multilabel":
        fits = _labels.canonical(schema.target, text) != _values.UNREADABLE
    else:
        fits = text is None or not allowed or text in allowed
    if not fits:
        raise SchemaError(f"{key}: wanted one of {', '.join(allowed)} (or an empty text for missing), got another")
    return text


def _decoder(rule: ColumnMap, column: Column | None, schema: Schema, key: str) -> Callable[[str], str | None]:
    values = {code: _legal(value, column, schema, f"{key}.values") for code, value in rule.values.items()}
    prefixes = {code: _legal(value, column, schema, f"{key}.prefixes") for code, value in rule.prefixes.items()}
    otherwise = None if rule.otherwise is None else _legal(rule.otherwise, column, schema, f"{key}.otherwise")
    folded = {code.casefold(): value for code, value in values.items()}
    coded = (column.dtype if column is not None else "class") in _CODED
    longest = sorted(prefixes, key=len, reverse=True)

    def decoded(text: str) -> str | None:
        if text in values:
            return values[text]
        if text.casefold() in folded:
            return folded[text.casefold()]
        for prefix in longest:
            if text.startswith(prefix):
                return prefixes[prefix]
        if rule.otherwise is not None:
            return otherwise
        return _values.UNREADABLE if coded or prefixes else text

    return decoded


def _converter(rule: ColumnMap, wanted: str, key: str) -> Callable[[str], str | None]:
    convert = conversion(rule.measure, wanted, rule.molar_mass, f"{key}.measure")

    def converted(text: str) -> str | None:
        if np.isnan(_values.number(text)):
            return _values.UNREADABLE
        exact = convert.exact(Fraction(Decimal(text)))
        return repr(float(exact if rule.decimals is None else round(exact, rule.decimals)))

    return converted


def _ages(texts: pd.Series[Any], rule: ColumnMap, source: _Source, key: str) -> pd.Series[Any]:
    try:
        day: datetime.date | None = datetime.date.fromisoformat(rule.on)
    except ValueError:
        day = None
    ends = source.texts(rule.on, f"{key}.on") if day is None else pd.Series([""] * len(texts), texts.index)
    parsed = {text: _day(text, rule.born) for text in {*texts.dropna(), *ends.dropna()}}

    def age(born: str | None, end: str | None) -> str | None:
        if born is None or end is None:
            return None
        first, last = parsed[born], day or parsed[end]
        if first is None or last is None or last < first:
            return _values.UNREADABLE
        return str(last.year - first.year - ((last.month, last.day) < (first.month, first.day)))

    ages = [age(born, end) for born, end in zip(texts, ends, strict=True)]
    return pd.Series(ages, index=texts.index, dtype=object)


def _day(text: str, form: str) -> datetime.date | None:
    try:
        return datetime.datetime.strptime(text, form).date()
    except ValueError:
        return None


def _computed(text: str, source: _Source, key: str) -> pd.Series[Any]:
    expression = parse(text, key)
    columns = {name: source.texts(name, key) for name in expression.names}
    absent = np.zeros(len(source.frame), dtype=bool)
    unread = np.zeros(len(source.frame), dtype=bool)
    for name, texts in columns.items():
        absent |= texts.isna().to_numpy()
        if name not in expression.texts:
            columns[name] = _values.numbers(texts, "number")
            unread |= columns[name].isna().to_numpy() & texts.notna().to_numpy()
    value = expression(columns)
    found = value if isinstance(value, pd.Series) else pd.Series([value] * len(source.frame), source.frame.index)
    numbers = pd.to_numeric(found).to_numpy(np.float64)

    def cell(number: float, gap: bool, bad: bool) -> str | None:
        if bad or not (np.isfinite(number) or gap):
            return _values.UNREADABLE
        return repr(float(number)) if np.isfinite(number) else None

    made = [cell(*each) for each in zip(numbers, absent, unread, strict=True)]
    return pd.Series(made, index=source.frame.index, dtype=object)
