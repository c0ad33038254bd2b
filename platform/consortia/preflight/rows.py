"""The readiness report of a participant's rows: is the file fit for training, and who could be found in it.

It reads at home and sends nothing. Counts, shares and names of columns are told; a value of a row never is.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clients import _values
from clients._apart import Apart, set_apart
from clients._labels import SEPARATOR
from clients.industry import IndustryClient
from clients.schema import Column, Schema
from consortia.preflight.disguised import day_of, kind_of, share_of_text

__all__ = ["Look", "RowsReport", "look_at"]

Level = Literal["ok", "look", "stop"]
#: A column from which this share of the target's variance is told on rows that were not used is a suspect.
_TELLS: Final = 0.9
#: Of a k-anonymous table: the least k that goes without a word.
_LEAST_K: Final = 5
_RARE: Final = 0.01
#: Share of distinct values above which a column numbers its rows.
_UNIQUE: Final = 0.95
#: Words in the names of columns by which persons are found again from elsewhere.
_QUASI: Final = (
    *("age", "sex", "gender", "zip", "postcode", "postal", "city", "region", "country", "birth", "nation", "ethnic"),
    *("race", "job", "profession", "occupation", "education", "marital", "foreign", "language", "religion"),
)


@dataclass(frozen=True)
class Look:
    """One line of the report.

    Attributes
    ----------
    level : "ok", "look" (somebody should) or "stop" (mend it before training).
    about : a column's name, or "rows".
    found, todo : in words, without a value.
    """

    level: Level
    topic: str
    about: str
    found: str
    todo: str = ""


@dataclass(frozen=True)
class RowsReport:
    """Everything that was found.

    Attributes
    ----------
    columns : by column: dtype, missing, out of bounds, what the schema does with it.
    """

    client: str
    rows: int
    kept: int
    looks: list[Look] = field(default_factory=list)
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether nothing says stop."""
        return all(look.level != "stop" for look in self.looks)


def look_at(
    client: IndustryClient,
    frame: pd.DataFrame,
    *,
    unit: str = "record",
    max_rows_per_unit: int | None = None,
    quasi: Sequence[str] = (),
    key: bytes = _values.DEMO_KEY,
    where: str = "the file",
) -> RowsReport:
    """Look at rows as a source gave them.

    Parameters
    ----------
    quasi : names of quasi-identifiers; by default features whose names sound like one.

    Raises
    ------
    SchemaError
        Where the columns are not the schema's at all.
    """
    schema = client.schema
    frame = frame.reset_index(drop=True)
    good, quarantine = schema.check(frame, key=key, where=where)
    apart = set_apart(schema, frame, quarantine)
    report = RowsReport(client.name, len(frame), len(good))
    report.columns.update(_columns(schema, frame, good))
    for found in (
        _apart(apart),
        _values_of(schema, good),
        _rows(schema, frame, good, unit, max_rows_per_unit),
        _target(schema, good),
        _leaks(schema, good),
        _identifiers(schema, frame, unit),
        _anonymity(schema, good, quasi),
    ):
        report.looks.extend(found)
    return report


def _percent(share: float) -> str:
    return f"{share:.1%}" if share and share < 0.1 else f"{share:.0%}"


def _columns(schema: Schema, frame: pd.DataFrame, good: pd.DataFrame) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what a table of columns says."""
    named = {column.name: column for column in schema.columns}
    for name in [str(name) for name in frame.columns]:
        column = named.get(name)
        texts = _values.texts(frame[name], column.missing_values if column else ())
        told: dict[str, Any] = {"missing": float(texts.isna().mean()) if len(texts) else 0.0}
        told["treated"] = treatment(schema, name)
        told["type"] = column.dtype if column else "target" if name == schema.target.name else "–"
        if column is not None and column.is_feature and column.low is not None and name in good:
            values = good[name].to_numpy(np.float64)
            outside = (values < column.low) | (values > (np.inf if column.high is None else column.high))
            told["clipped"] = float(outside.mean()) if len(outside) else 0.0
        yield name, told


def treatment(schema: Schema, name: str) -> str:
    """Return what the schema does with a column."""
    if name == schema.target.name:
        return "the target"
    column = next((column for column in schema.columns if column.name == name), None)
    if column is None:
        return "not read: the schema does not name it"
    rules = {"drop": "dropped when read", "hash": "replaced by a keyed hash", "generalise": "made coarser when read"}
    if column.identifier is not None:
        return rules[column.identifier]
    return "a feature" if column.is_feature else "checked, no feature"


def _apart(apart: Apart) -> Iterator[Look]:
    if not apart.rows:
        yield Look("ok", "set apart", "rows", "none")
        return
    level: Level = "stop" if apart.share > 0.2 else "look"
    yield Look(level, "set apart", "rows", apart.sentence(), "correct the source, or map its spellings")
    for column, line in apart.spellings.items():
        yield Look("stop", "set apart", column, "one spelling makes up its failures", line)
    for sentence in apart.bias:
        yield Look("look", "set apart", "rows", sentence, "what is trained on the rest may serve these rows worse")


def _values_of(schema: Schema, good: pd.DataFrame) -> Iterator[Look]:
    for column in schema.columns:
        if column.name not in good or column.identifier == "hash":
            continue
        values = good[column.name]
        present = values.dropna()
        if present.empty and len(values):
            yield Look("look", "missing", column.name, "no value in any row", "leave it out, or correct the source")
            continue
        if (missing := float(values.isna().mean())) > 0.5:
            yield Look("look", "missing", column.name, f"missing in {_percent(missing)} of the rows")
        if present.nunique() == 1 and len(present) > 1:
            yield Look("look", "constant", column.name, "one value in all rows", "it tells nothing here")
        if column.categories:
            counts = present.value_counts()
            unseen = sum(category not in counts.index for category in column.categories)
            rare = int((counts < max(2, _RARE * len(present))).sum())
            if unseen or rare:
                found = f"{unseen} of {len(column.categories)} categories in no row, {rare} in less than 1 % of them"
                yield Look("look", "categories", column.name, found, "join categories, or check their spelling")
        if column.is_feature and column.low is not None and column.high is not None:
            numbers = present.to_numpy(np.float64)
            outside = float(((numbers < column.low) | (numbers > column.high)).mean()) if len(numbers) else 0.0
            if outside > _RARE:
                found = f"{_percent(outside)} outside the public bounds, which are clipped to them"
                yield Look("look", "out of bounds", column.name, found, "check its unit of measure, or the bounds")


def _rows(schema: Schema, frame: pd.DataFrame, good: pd.DataFrame, unit: str, most: int | None) -> Iterator[Look]:
    names = [column.name for column in schema.columns if column.name in good and column.identifier != "hash"]
    twice = int(good.duplicated([*names, schema.target.name]).sum())
    if twice:
        found = f"{twice} rows ({_percent(twice / max(1, len(good)))}) equal an earlier one"
        yield Look("look", "duplicates", "rows", found, "a copy is a unit of its own, and counts twice")
    if unit == "record":
        yield Look("ok", "units", "rows", f"{len(good)} records; a row is a unit")
    elif unit not in good:
        yield Look("stop", "units", unit, "no such column among those that are read", "name a hashed identifier")
    else:
        counts = good[unit].value_counts()
        if counts.empty:
            yield Look("stop", "units", unit, "missing in every row", "name a column that says whose a row is")
            return
        found = f"{len(counts)} units, {counts.median():g} rows of one in the middle, {counts.max()} at most"
        over = 0.0 if most is None else float((counts > most).mean())
        said = f"; {_percent(over)} of them have more than max_rows_per_unit = {most}" if over else ""
        yield Look("look" if over else "ok", "units", unit, found + said)
    for name in [str(name) for name in frame.columns]:
        texts = list(_values.texts(frame[name]).dropna())
        days = [day for value in texts[:2000] if (day := day_of(value)) is not None]
        if texts and len(days) > 0.5 * min(2000, len(texts)):
            late = sum(day > datetime.date.today() for day in days)
            if late:
                found = f"{_percent(late / len(days))} of its dates lie in the future"
                yield Look("look", "dates", name, found, "check the order of day and month, and placeholders")


def _target(schema: Schema, good: pd.DataFrame) -> Iterator[Look]:
    values = good[schema.target.name]
    if schema.target.kind == "regression":
        found = "all equal" if values.nunique() < 2 else f"{values.nunique()} distinct values"
        yield Look("stop" if values.nunique() < 2 else "ok", "target", schema.target.name, found)
        return
    there = values.str.get_dummies(SEPARATOR) if schema.target.kind == "multilabel" else pd.get_dummies(values)
    shares = {name: float(there[name].mean()) if name in there else 0.0 for name in schema.target.classes}
    sides = [*shares.values(), *(1 - share for share in shares.values() if schema.target.kind == "multilabel")]
    level: Level = "stop" if values.nunique() < 2 else "look" if min(sides) < 0.05 else "ok"
    found = ", ".join(f"{name} {_percent(share)}" for name, share in shares.items())
    yield Look(level, "target", schema.target.name, found, "" if level == "ok" else "use AUC or average precision")


def _leaks(schema: Schema, good: pd.DataFrame) -> Iterator[Look]:
    for column in schema.columns:
        if not column.is_feature or column.name not in good:
            continue
        told = told_by(good[column.name], good[schema.target.name], regression=schema.target.kind == "regression")
        if told > _TELLS:
            found = f"alone tells {_percent(told)} of the target's variance, on rows that were not used"
            yield Look("stop", "leakage", column.name, found, "was it known when the target was not? if not, drop it")


def told_by(column: pd.Series[Any], target: pd.Series[Any], *, regression: bool) -> float:
    """Return which share of a target's variance one column alone tells, each half of the rows by the other's means."""
    if column.dtype == object:
        cells = column.astype(object).where(column.notna(), "missing").astype("category").cat.codes.to_numpy()
    else:
        ranks = column.rank(method="min", pct=True).fillna(2.0).to_numpy(np.float64)
        cells = (ranks * 20).astype(np.int64)
    y = target.to_numpy(np.float64)[:, None] if regression else pd.get_dummies(target).to_numpy(np.float64)
    if len(y) < 20:
        return 0.0
    random = np.random.default_rng(0)  # which half a row is in; nothing of it leaves
    half = random.random(len(y)) < 0.5
    rest = total = 0.0
    for side in (half, ~half):
        mean = y[~side].mean(axis=0)
        means = pd.DataFrame(y[~side]).groupby(cells[~side]).mean()
        guess = means.reindex(cells[side]).to_numpy(np.float64)
        guess = np.where(np.isfinite(guess), guess, mean)
        rest += float(np.square(y[side] - guess).sum())
        total += float(np.square(y[side] - mean).sum())
    return 1 - rest / total if total > 0 else 0.0


def _identifiers(schema: Schema, frame: pd.DataFrame, unit: str) -> Iterator[Look]:
    for name in [str(name) for name in frame.columns]:
        values = [str(value) for value in _values.texts(frame[name]).dropna()]
        if not values or name == schema.target.name:
            continue
        said = treatment(schema, name)
        safe = said.startswith(("dropped", "replaced", "made coarser", "not read"))
        kind, share = kind_of(values)
        if kind:
            level: Level = "ok" if safe else "stop"
            todo = "" if safe else 'give it identifier = "drop", "hash" or "generalise" in the schema'
            yield Look(level, "identifier", name, f"{_percent(share)} have the form of: {kind}; {said}", todo)
        elif (text := share_of_text(values)) > 0.3:
            todo = "" if safe else "free text names persons: drop it, or make categories of it"
            yield Look("ok" if safe else "stop", "free text", name, f"{_percent(text)} read as text; {said}", todo)
        elif name != unit and not safe and len(values) > 50 and _numbers_rows(schema, name, values):
            yield Look(
                "look", "identifier", name, f"nearly every row has its own value; {said}", "is it an identifier?"
            )


def _numbers_rows(schema: Schema, name: str, values: Sequence[str]) -> bool:
    column = next((column for column in schema.columns if column.name == name), None)
    counts_up = column is None or column.dtype in {"text", "integer"}
    return counts_up and len(set(values)) / len(values) > _UNIQUE


def _is_quasi(column: Column) -> bool:
    words = column.name.lower().replace("-", "_").split("_")
    return column.is_feature and any(word.startswith(_QUASI) for word in words)


def _anonymity(schema: Schema, good: pd.DataFrame, quasi: Sequence[str]) -> Iterator[Look]:
    chosen = [name for name in quasi if name in good] if quasi else []
    if not quasi:
        coarse = {"category", "flag", "integer"}
        chosen = [c.name for c in schema.columns if c.name in good and _is_quasi(c) and c.dtype in coarse]
        chosen += [c.name for c in schema.columns if c.name in good and c.dtype == "number" and _is_quasi(c)]
    if not chosen or good.empty:
        yield Look("ok", "re-identification", "rows", "no quasi-identifier by name; --quasi NAME,… looks at others")
        return
    sizes = _group_sizes(good, chosen)
    alone, few = float((sizes == 1).mean()), float((sizes < _LEAST_K).mean())
    found = (
        f"by {', '.join(chosen)}: k = {int(sizes.min())}, {_percent(alone)} of the rows are unique, {_percent(few)} in "
        f"groups of fewer than {_LEAST_K}"
    )
    todo = (
        "" if sizes.min() >= _LEAST_K else "who sees these rows can find persons; DP protects what leaves, not the file"
    )
    yield Look("ok" if sizes.min() >= _LEAST_K else "look", "re-identification", "rows", found, todo)


def _group_sizes(good: pd.DataFrame, names: Sequence[str]) -> NDArray[np.int64]:
    keys = good[list(names)].astype(object).where(good[list(names)].notna(), "missing")
    return keys.groupby(list(names), sort=False)[names[0]].transform("size").to_numpy(np.int64)


def as_data(report: RowsReport) -> Mapping[str, Any]:
    """Return the report as JSON-able data."""
    return {
        "client": report.client,
        "rows": report.rows,
        "kept": report.kept,
        "ready": report.ready,
        "looks": [vars(look) for look in report.looks],
        "columns": report.columns,
    }
