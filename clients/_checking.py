"""Checks rows against the schema, and keeps only counts of the rows that break it."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients import _labels, _values
from clients._pandas import pd
from clients.errors import SchemaError

if TYPE_CHECKING:
    from clients.schema import Column, Schema, Target

#: A number for each row, and the text of each number.
_Coded = tuple[NDArray[np.int64], list[str | None]]
NUMERIC = ("number", "integer", "flag")
#: From this many rows on, an unknown spelling counts as a code that nobody mapped. Fewer rows are broken rows.
FEW = 5
NEARLY_ALL = 0.9
_COMMA = re.compile(r"[+-]?\d*(?:,\d+)+")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:[ '.\u00a0\u202f\u2019]\d{3})+(?:[.,]\d*)?")
LARGEST = float(np.finfo(np.float32).max)
WANTED = {
    "number": "a number",
    "integer": "a whole number",
    "flag": "0 or 1",
    "category": "one of its categories",
    "text": "text",
}


@dataclass(frozen=True)
class Spelling:
    """One spelling that the schema lacks: how many `rows` have it, and the mapping `line` that would mend it.

    The line names the first data row that has it, never its text.
    """

    rows: int
    line: str


@dataclass(frozen=True)
class QuarantineReport:
    """How many rows were set apart, and why. For the participant's own log: these counts depend on data.

    A row with two faults counts once in `rows_read - rows_kept` and twice in `reasons`, whose keys read
    "column: rule". `spellings` has the columns in which one spelling alone makes up nearly all rows that are not of the
    column's type: a code that nobody mapped, not broken rows. Training and `consortia data check` go by it. `broken`
    says of each row read, in order, whether the schema set it apart; it stays with the rows.
    """

    rows_read: int
    rows_kept: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    spellings: Mapping[str, Spelling] = field(default_factory=dict)
    ignored_columns: tuple[str, ...] = ()
    broken: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool), repr=False, compare=False)

    @property
    def share(self) -> float:
        """Quarantined rows over rows read; 0 when there were none."""
        return (self.rows_read - self.rows_kept) / self.rows_read if self.rows_read else 0.0

    def __str__(self) -> str:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in self.reasons.items())
        return f"{self.rows_read - self.rows_kept} of {self.rows_read} rows quarantined" + (
            f": {reasons}" if reasons else ""
        )


def check_rows(schema: Schema, frame: pd.DataFrame, *, key: bytes, where: str) -> tuple[pd.DataFrame, QuarantineReport]:
    """See `Schema.check`."""
    frame = named(schema, frame)
    _refuse_wrong_columns(schema, frame, where)
    columns = [c for c in schema.columns if c.identifier != "drop" and c.name in frame]
    # Column by column: of a number's texts nothing is kept, for a million rows of them take gigabytes.
    found = {c.name: _found(schema, c.name, c.dtype, _read_column(c, frame[c.name])) for c in columns}
    target = schema.target
    found[target.name] = _found(schema, target.name, _target_dtype(target), _read_target(target, frame[target.name]))
    for name, one in found.items():
        _refuse_foreign_column(schema, name, one, frame[name], where)
    broken, reasons = _broken_rows(schema, columns, found)
    index = frame.index[~broken]
    typed: dict[str, pd.Series[Any]] = {}
    for column in columns:
        one = found[column.name]
        if one.numbers is not None and column.identifier != "hash":
            values: Any = one.numbers[~broken]
        else:
            values = one.texts[~broken]
            if column.identifier == "hash":
                hide = lambda v, name=column.name: None if v is None else _values.pseudonym(key, name, v)  # noqa: E731
                values = _values.by_value(pd.Series(values, dtype=object), hide)
                if column.dtype in NUMERIC:
                    values = _values.numbers(pd.Series(values, dtype=object), column.dtype).to_numpy()
        typed[column.name] = pd.Series(values, index=index, dtype=values.dtype)
    labels = found[target.name]
    kept = labels.texts if labels.numbers is None else labels.numbers
    typed[target.name] = pd.Series(kept[~broken], index=index, dtype=kept.dtype)
    known = {c.name for c in schema.columns} | {schema.target.name}
    report = QuarantineReport(
        rows_read=len(frame),
        rows_kept=len(index),
        reasons=reasons,
        spellings=_one_spelling(schema, frame, found),
        ignored_columns=tuple(sorted(str(c) for c in frame.columns if c not in known)),
        broken=broken,
    )
    return pd.DataFrame(typed, index=index), report


@dataclass(frozen=True)
class _Found:
    """What was read in one column (n_rows,).

    `fits` says of each row whether its value is what the column wants, True for a missing one. `numbers` is None for a
    column of texts, `texts` is empty for one of numbers that nobody hides.
    """

    dtype: str
    present: NDArray[np.bool_]
    fits: NDArray[np.bool_]
    numbers: NDArray[np.float64] | None
    texts: NDArray[np.object_]


def _found(schema: Schema, name: str, dtype: str, read: _Coded) -> _Found:
    codes, texts = read
    each = pd.Series(texts, dtype=object)  # by number: each text is looked at once
    there = each.notna().to_numpy()
    numbers: NDArray[np.float64] | None = None
    if dtype in NUMERIC:
        parsed = np.array([_values.number_of(text, dtype) for text in texts], dtype=np.float64)
        numbers, right = parsed[codes], ~np.isnan(parsed)
    elif dtype == "class" and schema.target.kind == "multilabel":
        right = ~each.isin([_values.UNREADABLE]).to_numpy()
    elif dtype in {"category", "class"}:
        legal = schema.column(name).categories if dtype == "category" else schema.target.classes
        right = each.isin(legal).to_numpy()
    else:
        right = ~each.isin([_values.UNREADABLE]).to_numpy()
    fits = (~there | right)[codes]
    hidden = name != schema.target.name and schema.column(name).identifier == "hash"
    spelled = each.to_numpy()[codes] if numbers is None or hidden else np.zeros(0, dtype=object)
    return _Found(dtype, there[codes], fits, numbers, spelled)


def named(schema: Schema, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the schema's names where a column differs in case, white space or Unicode form alone.

    A name that is there as the schema writes it is left alone; of two that differ in case alone neither is taken, and
    the column is missing. Several labels of a row come into one column (`clients._labels.one_column`).
    """
    several = schema.target.kind == "multilabel"
    ours = [column.name for column in schema.columns] + [schema.target.name, *(schema.target.classes * several)]
    alike: dict[str, list[str]] = {}
    for name in frame.columns:
        alike.setdefault(plain_name(str(name)), []).append(name)
    here = set(frame.columns)
    renamed = {}
    for name in ours:
        found = alike.get(plain_name(name), [])
        if name not in here and len(found) == 1 and found[0] not in ours:
            renamed[found[0]] = name
    frame = frame.rename(columns=renamed) if renamed else frame
    return _labels.one_column(schema.target, frame) if several else frame


def plain_name(name: str) -> str:
    """Return a column's name without case, white space at its ends and Unicode form."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def blank_to_none(frame: pd.DataFrame) -> pd.DataFrame:
    """The raw frame as text with None for a blank or "?", which is all that a named filter needs to see."""
    return pd.DataFrame({name: _values.texts(frame[name]) for name in frame.columns}, index=frame.index)


def _refuse_wrong_columns(schema: Schema, frame: pd.DataFrame, where: str) -> None:
    if not frame.columns.is_unique:
        ours = {c.name for c in schema.columns} | {schema.target.name}
        twice = {str(c) for c in frame.columns[frame.columns.duplicated()]}
        named = ", ".join(repr(name) for name in sorted(twice & ours)) or f"{len(twice)} column(s) of other names"
        raise SchemaError(f"{where}: wanted each column once, got {named} more than once; rename or drop it")
    names = [column.name for column in schema.columns] + [schema.target.name]
    there, known = (Counter(plain_name(str(name)) for name in each) for each in (frame.columns, names))
    if alike := [name for name in names if there[plain_name(name)] > known[plain_name(name)]]:
        raise SchemaError(
            f"{where}: wanted column {alike[0]!r} once, got it {there[plain_name(alike[0])]} times in upper and lower "
            f"case; rename one, or name yours in the mapping: {alike[0]}.column"
        )
    wanted = [c.name for c in schema.columns if c.required] + [schema.target.name]
    absent = [name for name in wanted if name not in frame]
    if not absent:
        return
    got = _by_letters(frame)
    wants = f"Schema {schema.name!r} version {schema.version} wants {', '.join(wanted)}"
    near = {name: _near(name, got) for name in absent}
    # The others are there. What is close to an absent name is sought once: by letters first, for that costs nothing.
    if len(wanted) - sum(close is None for close in near.values()) < len(wanted) / 2:
        # Without a header line the first row stands there: it is not repeated.
        raise SchemaError(
            f"{where}: column {', '.join(repr(a) for a in absent)} is missing. {wants}; got "
            f"{frame.shape[1]} column(s) of other names. Is the first line a header line, with commas between names?"
        )
    # Of the header line only what is close to a name of the schema: without a header line it is somebody's row.
    hints = [f"{close!r} is close" for close in near.values() if close]
    raise SchemaError(
        f"{where}: column {', '.join(repr(a) for a in absent)} is missing. {wants}; got {frame.shape[1]} columns."
        + (f" {'; '.join(hints)}: rename it in the source." if hints else "")
    )


def _by_letters(frame: pd.DataFrame) -> dict[str, str]:
    """Return the columns by their names without case and white space."""
    return {plain_name(str(name)): str(name) for name in reversed(frame.columns)}


def _near(name: str, got: Mapping[str, str]) -> str | None:
    """Return the column that was probably meant: the same letters in another case, or nearly the same."""
    if (same := got.get(plain_name(name))) is not None:
        return same
    return next(iter(difflib.get_close_matches(name, got.values(), 1)), None)


def _read_column(column: Column, raw: pd.Series[Any]) -> _Coded:
    codes, texts = _values.coded(raw, column.missing_values)
    if column.identifier != "generalise" or column.generalise is None:
        return codes, texts
    rule = column.generalise
    coarsen = rule if callable(rule) else _bin(float(rule))
    return codes, [None if v is None else _values.text(_coarse(coarsen, v)) for v in texts]


def _bin(width: float) -> Callable[[str], str]:
    """The lower edge of a number's bin."""
    return lambda text: repr(float(np.floor(_values.number(text) / width) * width))


def _coarse(coarsen: Callable[[str], str], value: str) -> str:
    """The generalised value. What the rule cannot take is marked, so that the row is set apart, unnamed."""
    try:
        coarse = coarsen(value)
    except Exception:  # noqa: BLE001 - its text would quote the identifier
        return _values.UNREADABLE
    return _values.UNREADABLE if coarse == "nan" else coarse


def _target_dtype(target: Target) -> str:
    return "number" if target.kind == "regression" else "class"


def _read_target(target: Target, raw: pd.Series[Any]) -> _Coded:
    codes, texts = _values.coded(raw)
    if target.kind == "multilabel":
        return codes, [_labels.canonical(target, text) for text in texts]
    if not target.mapping:
        return codes, texts
    # A value that the mapping does not know is no class: the row is set apart.
    return codes, [None if v is None else target.mapping.get(v, _values.UNREADABLE) for v in texts]


def _refuse_foreign_column(schema: Schema, name: str, found: _Found, raw: pd.Series[Any], where: str) -> None:
    """A column without one usable value is a wrong column, not a heap of broken rows."""
    if not found.present.any() or (found.fits & found.present).any():
        return
    dtype = found.dtype
    if dtype == "category":
        wanted = f"one of {', '.join(schema.column(name).categories)}"
    elif dtype == "class":
        some = "some" if schema.target.kind == "multilabel" else "one"
        wanted = f"{some} of {', '.join(schema.target.mapping or schema.target.classes)}"
    else:
        wanted = WANTED[dtype]
    raise SchemaError(
        f"{where}: column {name!r}: wanted {wanted} (schema {schema.name!r}), got a column of type {raw.dtype} "
        f"without a single such value. Name the right column, or {_way_out(schema, name, dtype, found, raw)}"
    )


def _way_out(schema: Schema, name: str, dtype: str, found: _Found, raw: pd.Series[Any]) -> str:
    """Say which option or rule would mend a column without a usable value; its first row is named, not repeated."""
    row = int(found.present.argmax())
    if dtype in {"number", "integer"} and _COMMA.fullmatch(_values.text(raw.iloc[row]) or ""):
        return f"add decimal=, (or thousands=,) to the source: data row {row + 1} has a comma"
    if dtype in {"number", "integer"} and _GROUPED.fullmatch(_values.text(raw.iloc[row]) or ""):
        return f"add thousands= to the source: data row {row + 1} has groups of digits"
    return _mending(schema, name, dtype, row + 1)


def _one_spelling(schema: Schema, frame: pd.DataFrame, found: Mapping[str, _Found]) -> dict[str, Spelling]:
    """See `QuarantineReport.spellings`; spellings are compared as the source has them."""
    missing = {column.name: column.missing_values for column in schema.columns}
    spellings = {}
    for name, one in found.items():
        wrong = ~one.fits
        if wrong.sum() < FEW or one.dtype == "text":
            continue
        raw = _values.texts(frame[name], missing.get(name, ())).to_numpy()
        counts = pd.Series(raw[wrong]).value_counts()
        if (most := int(counts.iloc[0])) >= NEARLY_ALL * wrong.sum():
            # Python's comparison: NumPy drops the zero byte that marks what a participant's mapping does not know.
            first = next(n for n, value in enumerate(raw, 1) if value == counts.index[0] and wrong[n - 1])
            spellings[name] = Spelling(most, _mending(schema, name, one.dtype, first))
    return spellings


def _mending(schema: Schema, name: str, dtype: str, first: int) -> str:
    said = f'"<what data row {first} says>"'
    told = f"missing = [{said}]"
    if dtype not in {"number", "integer"}:
        known = {"flag": ("0", "1"), "class": tuple(schema.target.mapping) or schema.target.classes}
        wanted = ", ".join(known[dtype] if dtype in known else schema.column(name).categories)
        told = f'values = {{ {said} = "<one of {wanted}>" }}, or {told}'
    return f"map it below [dataset.….mapping.{name}]: {told}"


def _broken_rows(
    schema: Schema, columns: list[Column], found: Mapping[str, _Found]
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which rows break the schema, and how many break each rule, by column and rule."""
    rules: list[tuple[str, str, NDArray[np.bool_]]] = []
    for column in columns:
        one = found[column.name]
        if not column.nullable:
            rules.append((column.name, "missing", ~one.present))
        rules.append((column.name, f"not {WANTED[column.dtype]}", ~one.fits))
        if column.dtype in {"number", "integer"}:
            rules.append((column.name, "outside what is possible", _outside(one, column.valid_low, column.valid_high)))
    target = schema.target
    one = found[target.name]
    rules.append((target.name, "missing", ~one.present))
    rules.append((target.name, "not a number" if target.kind == "regression" else "not a class", ~one.fits))
    if target.kind == "regression" and target.low is not None and target.high is not None:
        rules.append((target.name, "outside its bounds", _outside(one, target.low, target.high)))
    elif target.kind == "regression":
        rules.append((target.name, "larger than a float32", _outside(one, -LARGEST, LARGEST)))
    broken = np.zeros(len(one.present), dtype=bool)
    reasons: dict[str, int] = {}
    for name, text, wrong in rules:
        if count := int(np.count_nonzero(wrong)):
            reasons[f"{name}: {text}"] = count
            broken |= wrong
    return broken, reasons


def _outside(found: _Found, low: float, high: float) -> NDArray[np.bool_]:
    assert found.numbers is not None
    return ~(np.isnan(found.numbers) | ((found.numbers >= low) & (found.numbers <= high)))
