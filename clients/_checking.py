"""Checks rows against the schema with pandera, and keeps only counts of the rows that break it."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clients import _values
from clients.errors import SchemaError

if TYPE_CHECKING:
    from clients.schema import Column, Schema, Target

NUMERIC = ("number", "integer", "flag")
#: Fewer rows with one unknown spelling are broken rows; from here on they are a code that nobody mapped.
FEW = 5
NEARLY_ALL = 0.9
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
    texts = pd.DataFrame({c.name: _read_column(c, frame[c.name]) for c in columns}, index=frame.index)
    texts[schema.target.name] = _read_target(schema.target, frame[schema.target.name])
    for name, dtype in [(c.name, c.dtype) for c in columns] + [(schema.target.name, _target_dtype(schema.target))]:
        _refuse_foreign_column(schema, name, dtype, texts[name], str(frame[name].dtype), where)
    broken, reasons = _broken_rows(schema, columns, texts)
    good = texts[~broken]
    typed: dict[str, pd.Series[Any]] = {}
    for column in columns:
        values = good[column.name]
        if column.identifier == "hash":
            hidden = [None if v is None else _values.pseudonym(key, column.name, v) for v in values]
            values = pd.Series(hidden, index=values.index, dtype=object)
        typed[column.name] = _values.numbers(values, column.dtype) if column.dtype in NUMERIC else values
    labels = good[schema.target.name]
    regression = schema.target.kind == "regression"
    typed[schema.target.name] = _values.numbers(labels, "number") if regression else labels
    known = {c.name for c in schema.columns} | {schema.target.name}
    report = QuarantineReport(
        rows_read=len(frame),
        rows_kept=len(good),
        reasons=reasons,
        spellings=_one_spelling(schema, columns, frame, texts),
        ignored_columns=tuple(sorted(str(c) for c in frame.columns if c not in known)),
        broken=broken,
    )
    return pd.DataFrame(typed, index=good.index), report


def named(schema: Schema, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the schema's names where a column differs in case, white space or Unicode form alone.

    A name that is there as the schema writes it is left alone; of two that differ in case alone neither is taken, and
    the column is missing.
    """
    ours = [column.name for column in schema.columns] + [schema.target.name]
    alike: dict[str, list[str]] = {}
    for name in frame.columns:
        alike.setdefault(_plain(str(name)), []).append(name)
    here = set(frame.columns)
    renamed = {}
    for name in ours:
        found = alike.get(_plain(name), [])
        if name not in here and len(found) == 1 and found[0] not in ours:
            renamed[found[0]] = name
    return frame.rename(columns=renamed) if renamed else frame


def _plain(name: str) -> str:
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
    wanted = [c.name for c in schema.columns if c.required] + [schema.target.name]
    absent = [name for name in wanted if name not in frame]
    if not absent:
        return
    got = [str(c) for c in frame.columns]
    wants = f"Schema {schema.name!r} version {schema.version} wants {', '.join(wanted)}"
    if sum(_near(name, got) is not None for name in wanted) < len(wanted) / 2:
        # Without a header line the first row stands there: it is not repeated.
        raise SchemaError(
            f"{where}: column {', '.join(repr(a) for a in absent)} is missing. {wants}; got {len(got)} column(s) of "
            "other names. Is the first line a header line, with commas between its names?"
        )
    # Of the header line only what is close to a name of the schema: without a header line it is somebody's row.
    hints = [f"{close!r} is close" for name in absent if (close := _near(name, got))]
    raise SchemaError(
        f"{where}: column {', '.join(repr(a) for a in absent)} is missing. {wants}; got {len(got)} columns."
        + (f" {'; '.join(hints)}: rename it in the source." if hints else "")
    )


def _near(name: str, got: list[str]) -> str | None:
    """Return the column that was probably meant: the same letters in another case, or nearly the same."""
    same = [each for each in got if _plain(each) == _plain(name)]
    return next(iter([*same, *difflib.get_close_matches(name, got, 1)]), None)


def _read_column(column: Column, raw: pd.Series[Any]) -> pd.Series[Any]:
    values = _values.texts(raw, column.missing_values)
    if column.identifier != "generalise" or column.generalise is None:
        return values
    rule = column.generalise
    coarsen = rule if callable(rule) else _bin(float(rule))
    coarse = [None if v is None else _coarse(coarsen, v) for v in values]
    return _values.texts(pd.Series(coarse, index=values.index, dtype=object))


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


def _read_target(target: Target, raw: pd.Series[Any]) -> pd.Series[Any]:
    values = _values.texts(raw)
    if not target.mapping:
        return values
    # A value that the mapping does not know is no class: the row is set apart.
    return pd.Series(
        [None if v is None else target.mapping.get(v, _values.UNREADABLE) for v in values],
        index=values.index,
        dtype=object,
    )


def _of_type(schema: Schema, name: str, dtype: str, values: pd.Series[Any]) -> pd.Series[bool]:
    """Whether each present value is what the column wants (True for a missing one)."""
    present = values.notna()
    if dtype in NUMERIC:
        return ~present | _values.numbers(values, dtype).notna()
    if dtype == "category":
        return ~present | values.isin(schema.column(name).categories)
    if dtype == "class":
        return ~present | values.isin(schema.target.classes)
    return ~present | ~values.isin([_values.UNREADABLE])


def _refuse_foreign_column(schema: Schema, name: str, dtype: str, values: pd.Series[Any], got: str, where: str) -> None:
    """A column without one usable value is a wrong column, not a heap of broken rows."""
    present = values.notna()
    if not present.any() or (_of_type(schema, name, dtype, values) & present).any():
        return
    if dtype == "category":
        wanted = f"one of {', '.join(schema.column(name).categories)}"
    elif dtype == "class":
        wanted = f"one of {', '.join(schema.target.mapping or schema.target.classes)}"
    else:
        wanted = WANTED[dtype]
    raise SchemaError(
        f"{where}: column {name!r}: wanted {wanted} (schema {schema.name!r}), got a column of type {got} "
        "without a single such value. Is it the right column, in the right coding?"
    )


def _one_spelling(
    schema: Schema, columns: list[Column], frame: pd.DataFrame, texts: pd.DataFrame
) -> dict[str, Spelling]:
    """See `QuarantineReport.spellings`; spellings are compared as the source has them."""
    missing = {c.name: c.missing_values for c in columns}
    found = {}
    for name, dtype in [(c.name, c.dtype) for c in columns] + [(schema.target.name, _target_dtype(schema.target))]:
        wrong = ~_of_type(schema, name, dtype, texts[name]).to_numpy(bool)
        if wrong.sum() < FEW or dtype == "text":
            continue
        raw = _values.texts(frame[name], missing.get(name, ())).to_numpy()
        counts = pd.Series(raw[wrong]).value_counts()
        if (most := int(counts.iloc[0])) >= NEARLY_ALL * wrong.sum():
            # Python's comparison: NumPy drops the zero byte that marks what a participant's mapping does not know.
            first = next(n for n, value in enumerate(raw, 1) if value == counts.index[0] and wrong[n - 1])
            found[name] = Spelling(most, _mending(schema, name, dtype, first))
    return found


def _mending(schema: Schema, name: str, dtype: str, first: int) -> str:
    said = f'"<what data row {first} says>"'
    told = f"missing = [{said}]"
    if dtype not in {"number", "integer"}:
        known = {"flag": ("0", "1"), "class": tuple(schema.target.mapping) or schema.target.classes}
        wanted = ", ".join(known[dtype] if dtype in known else schema.column(name).categories)
        told = f'values = {{ {said} = "<one of {wanted}>" }}, or {told}'
    return f"map it below [dataset.….mapping.{name}]: {told}"


def _broken_rows(
    schema: Schema, columns: list[Column], texts: pd.DataFrame
) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which rows break the schema, and how many break each rule; `pandera` looks at all rules lazily."""
    import pandera.pandas as pa
    from pandera.errors import SchemaErrors

    def rule(text: str, passes: Any) -> Any:
        return pa.Check(passes, error=text, ignore_na=False)

    checks: dict[str, Any] = {}
    for column in columns:
        rules = []
        rules.append(rule(f"not {WANTED[column.dtype]}", _type_check(schema, column.name, column.dtype)))
        if column.dtype in {"number", "integer"}:
            rules.append(rule("outside what is possible", _range_check(column.valid_low, column.valid_high)))
        checks[column.name] = pa.Column(None, checks=rules, nullable=column.nullable)
    target = schema.target
    rules = [rule("not a class", _type_check(schema, target.name, _target_dtype(target)))]
    if target.kind == "regression":
        rules = [rule("not a number", _type_check(schema, target.name, "number"))]
        if target.low is not None and target.high is not None:
            rules.append(rule("outside its bounds", _range_check(target.low, target.high)))
        else:
            rules.append(rule("larger than a float32", _range_check(-LARGEST, LARGEST)))
    checks[target.name] = pa.Column(None, checks=rules, nullable=False)

    # Positions, not the caller's labels: two rows may carry the same label.
    numbered = texts.reset_index(drop=True)
    broken = np.zeros(len(texts), dtype=bool)
    reasons: dict[str, int] = {}
    try:
        pa.DataFrameSchema(checks).validate(numbered, lazy=True)
    except SchemaErrors as error:
        # The failure cases hold values. Only positions and counts leave this function.
        cases = error.failure_cases
        rows = cases["index"].to_numpy(np.int64)
        broken[rows] = True
        text = cases["check"].astype(str).replace({"not_nullable": "missing"})
        for reason, count in (cases["column"].astype(str) + ": " + text).value_counts(sort=False).items():
            reasons[str(reason)] = int(count)
    return broken, reasons


def _type_check(schema: Schema, name: str, dtype: str) -> Any:
    return lambda values: _of_type(schema, name, dtype, values)


def _range_check(low: float, high: float) -> Any:
    def within(values: pd.Series[Any]) -> pd.Series[bool]:
        parsed = _values.numbers(values, "number")
        return parsed.isna() | parsed.between(low, high)

    return within
