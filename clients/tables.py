"""An industry made of tables: its owner declares the columns, or one person infers them from all rows.

A table's industry is called by a hash of its schema, so that two schemas never share a name, and a contract that names
the industry fixes every column, bound and category.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clients import _values, registry
from clients._pandas import pd
from clients.errors import SourceError, TableError
from clients.industry import IndustryClient
from clients.schema import Column, Schema, Target
from consortia_plugins.arguments import named_arguments

__all__ = [
    "declare_schema",
    "from_json",
    "industry_of",
    "infer_schema",
    "keep",
    "known_from",
    "rows_of",
    "sort_of",
    "to_json",
]

Kind = Literal["binary", "multiclass", "regression"]
#: A column's declaration in short: (low, high), a list of categories, `bool`, or a `Column` with everything.
ColumnWord = Column | tuple[float, float] | Sequence[str] | type[bool]
#: A text column with more values is probably an identifier.
MOST_CATEGORIES = 50
#: Whole numbers with more values are a quantity, not classes.
MOST_CLASSES = 20
SITE = "rows"
#: Beside a run's records, so that another process can read them.
FILE = "table.json"
_METRICS = {
    "binary": ("auc", "accuracy", "auprc", "brier", "log_loss"),
    "multiclass": ("accuracy", "macro_auc", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}


@named_arguments(TableError)
def declare_schema(
    columns: Mapping[str, ColumnWord],
    target: str,
    *,
    classes: Sequence[Any] = (),
    bounds: tuple[float, float] | None = None,
    nullable: Sequence[str] = (),
    identifiers: Sequence[str] = (),
) -> Schema:
    """Make a schema from public declarations: nothing is read from rows, so nothing of them is given away.

    Parameters
    ----------
    columns : mapping
        What the model may see, by column: `(low, high)` for a number, which is clamped to these bounds; a list of all
        categories; `bool`; or a `Column`.
    target : str
        The column that is predicted.
    classes : sequence, optional
        All classes of the target; of two, the second is the positive one. Without classes it is a number.
    bounds : (low, high), optional
        Public bounds of a target that is a number. Without them it is learned as it is; a scale near 1 is best then.
    nullable : sequence of str
        Columns that may be missing. Each has one feature more, which says so.
    identifiers : sequence of str
        Columns that say whose row it is, for `Participant.unit`. They are hashed and never a feature.

    Raises
    ------
    TableError
        Naming the column, wanted and got. SchemaError where columns contradict each other.
    """
    if strange := [name for name in nullable if name not in columns]:
        raise TableError(f"nullable: wanted names of columns ({', '.join(columns)}), got {', '.join(strange)}")
    made = [_declared(str(name), word, name in nullable) for name, word in columns.items()]
    return _schema([*made, *map(_identifier, identifiers)], _target(target, [str(each) for each in classes], bounds))


@named_arguments(TableError)
def infer_schema(
    frames: Sequence[pd.DataFrame], target: str, *, kind: Kind | None = None, identifiers: Sequence[str] = ()
) -> Schema:
    """Make a schema by looking at rows. FOR SIMULATION BY ONE PERSON WHO HOLDS ALL OF THEM; IT IS NOT PRIVATE.

    Bounds, categories and classes are the least and the largest value, and the values themselves, of all participants'
    rows together. They stand in the contract, which everybody reads, and no budget pays for them: the ε of a run holds
    for its updates only, given this schema. Where rows belong to several owners, take `declare_schema`.

    Parameters
    ----------
    frames : sequence of DataFrame (n_rows, any columns)
        Numbers become numbers; booleans flags; text and pandas' categories become categories. A column that some
        frames lack counts as missing there.
    target : str
        The column that is predicted: text, booleans and at most 20 distinct whole numbers are classes in sorted order;
        any other number is a regression.
    kind : {"binary", "multiclass", "regression"}, optional
        What the target is, where that rule is wrong.
    identifiers : sequence of str
        Columns that say whose row it is, for `Participant.unit`; never a feature.

    Raises
    ------
    TableError
        Naming the column, wanted and got; never a value.
    """
    if not frames:
        raise TableError("frames: wanted at least one DataFrame, got none")
    given = [frame.rename(columns=str) for frame in frames]
    for number, frame in enumerate(given):
        if not frame.columns.is_unique:
            raise TableError(f"frames: wanted each column once in frame {number}, got some twice; rename them")
        if target not in frame:
            raise TableError(f"target: wanted a column of every frame, got {target!r}, which frame {number} lacks")
    every = dict.fromkeys(name for frame in given for name in frame.columns)
    features = [name for name in every if name not in {target, *identifiers}]
    columns = [_inferred(name, [frame[name] for frame in given if name in frame], len(given)) for name in features]
    return _schema([*columns, *map(_identifier, identifiers)], _inferred_target(target, given, kind))


def industry_of(schema: Schema) -> IndustryClient:
    """The industry of a schema: the platform's own networks, every metric of the target's kind, no rows of its own.

    Raises
    ------
    TableError
        The schema holds a function, which no file can hold.
    """
    digest = hashlib.sha256(to_json(schema).encode()).hexdigest()
    return IndustryClient(
        name=f"{schema.name}-{digest[:12]}",
        title="Table",
        schema=schema,
        read=_no_public_rows,
        sites=(SITE,),
        dataset=SITE,
        synthesise=_no_synthetic_rows,
        metrics=_METRICS[schema.target.kind],
    )


def to_json(schema: Schema) -> str:
    """What a schema says beyond its defaults, as canonical JSON. `from_json` reads it; TableError for functions."""
    if schema.derived or any(callable(column.generalise) for column in schema.columns):
        raise TableError(
            f"schema {schema.name!r}: wanted columns without functions (derived, generalise), got some; make them "
            "columns of the frames, or write an industry (docs/how_to/industry.md)"
        )
    data = _given(schema) | {"columns": [_given(column) for column in schema.columns], "target": _given(schema.target)}
    return json.dumps(data, sort_keys=True)


def from_json(text: str) -> Schema:
    """Read what `to_json` wrote."""
    data = _tuples(json.loads(text))
    columns = tuple(Column(**_tuples(column)) for column in data["columns"])
    return Schema(**data | {"columns": columns, "target": Target(**_tuples(data["target"]))})


def keep(folder: Path, schema: Schema, **facts: Any) -> None:
    """Write a schema into the folder of a run on tables, with what else is to be known of it."""
    text = json.dumps({"schema": 1, "table": json.loads(to_json(schema)), **facts}, indent=1)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def known_from(folder: Path) -> dict[str, Any]:
    """Make the industry of a run on tables known to this process; return what `keep` wrote, {} for any other run."""
    file = folder / FILE
    if not file.is_file():
        return {}
    data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    registry.hold(industry_of(from_json(json.dumps(data["table"]))))
    return data


def _given(part: Schema | Column | Target) -> dict[str, Any]:
    values = {field.name: (getattr(part, field.name), field) for field in dataclasses.fields(part)}
    values = {name: value for name, (value, field) in values.items() if value not in (field.default, {})}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}


def rows_of(schema: Schema, frame: pd.DataFrame) -> pd.DataFrame:
    """The columns (n_rows, n_columns) of a frame that a schema names, as every kind of file can hold them."""
    named = frame.rename(columns=str)
    wanted = [name for name in [*(column.name for column in schema.columns), schema.target.name] if name in named]
    plain = pd.api.types.is_numeric_dtype
    return pd.DataFrame({name: named[name] if plain(named[name]) else _values.texts(named[name]) for name in wanted})


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


def _schema(columns: Sequence[Column], target: Target) -> Schema:
    return Schema(name="table", version=1, columns=tuple(columns), target=target)


def _identifier(name: str) -> Column:
    return Column(name=name, dtype="text", identifier="hash", required=False, nullable=True)


def _declared(name: str, word: ColumnWord, nullable: bool) -> Column:
    if isinstance(word, Column):
        return dataclasses.replace(word, name=name, nullable=word.nullable or nullable)
    if word is bool:
        return Column(name=name, dtype="flag", nullable=nullable)
    if isinstance(word, Sequence) and not isinstance(word, str) and word:
        items: list[Any] = list(word)
        if all(isinstance(each, str) for each in items):
            return Column(name=name, dtype="category", categories=tuple(items), nullable=nullable)
        if len(items) == 2 and all(isinstance(each, int | float | np.number) for each in items):
            return Column(name=name, dtype="number", low=float(items[0]), high=float(items[1]), nullable=nullable)
    raise TableError(
        f"columns: {name!r}: wanted (low, high), a list of categories as text, bool or a Column, got "
        f"{type(word).__name__}"
    )


def _target(name: str, classes: Sequence[str], bounds: tuple[float, float] | None) -> Target:
    if classes and bounds is not None:
        raise TableError("classes, bounds: wanted one of them, got both; a target is a class or a number")
    if classes:
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise TableError(f"classes: wanted at least two different ones, got {len(set(classes))} different ones")
        return Target(name=name, kind="binary" if len(classes) == 2 else "multiclass", classes=tuple(classes))
    low, high = bounds if bounds is not None else (None, None)
    return Target(name=name, kind="regression", low=low, high=high)


def sort_of(name: str, values: pd.Series[Any]) -> str:
    """What present values (n,) are: "number", "flag" or "text"."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return "text"
    found = pd.api.types.infer_dtype(values)
    sorts = {"floating": "number", "integer": "number", "mixed-integer-float": "number", "decimal": "number"}
    sorts |= {"boolean": "flag", "string": "text", "empty": "number"}
    if found not in sorts:
        raise TableError(
            f"column {name!r}: wanted numbers, booleans or text, got {found}; convert it to one of them, or drop it"
        )
    return sorts[found]


def _inferred(name: str, parts: Sequence[pd.Series[Any]], frames: int) -> Column:
    present = pd.concat([part.dropna() for part in parts], ignore_index=True)
    everywhere = len(parts) == frames
    rest: dict[str, Any] = {"name": name, "required": everywhere}
    rest["nullable"] = not everywhere or any(part.isna().any() for part in parts)
    sort = sort_of(name, present)
    if sort == "flag":
        return Column(dtype="flag", **rest)
    if sort == "number":
        low, high = _range(present)
        return Column(dtype="number", low=low, high=high, **rest)
    texts = _values.texts(present)
    categories = sorted(set(texts.dropna()))
    if not 0 < len(categories) <= MOST_CATEGORIES:
        raise TableError(
            f"column {name!r}: wanted 1 to {MOST_CATEGORIES} different texts, got {len(categories)}; drop it, or name "
            "it as an identifier"
        )
    rest["nullable"] |= bool(texts.isna().any())  # "" and "NA" are missing, too
    return Column(dtype="category", categories=tuple(categories), **rest)


def _range(values: pd.Series[Any]) -> tuple[float, float]:
    """The finite least and largest value, apart where all are equal."""
    numbers = values.to_numpy(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (-1.0, 1.0)
    if low < high:
        return low, high
    room = max(1.0, abs(low))
    return low - room, low + room


def _inferred_target(name: str, frames: Sequence[pd.DataFrame], kind: Kind | None) -> Target:
    values = pd.concat([frame[name].dropna() for frame in frames], ignore_index=True)
    if values.empty:
        raise TableError(f"target: wanted values in column {name!r}, got none")
    number = sort_of(name, values) == "number"
    if kind is None and number:
        whole = values.to_numpy(np.float64)
        classes = len(np.unique(whole)) <= MOST_CLASSES and bool((whole == np.floor(whole)).all())
        kind = None if classes else "regression"
    if kind == "regression":
        if not number:
            raise TableError(f"kind: wanted a column of numbers for a regression, got other values in {name!r}")
        return _target(name, (), _range(values))
    distinct = set(_values.texts(values).dropna())
    ordered = sorted(distinct, key=_values.number) if number else sorted(distinct)
    if kind is not None and (kind == "binary") != (len(ordered) == 2):
        raise TableError(f"kind: wanted a target with the classes of {kind}, got {len(ordered)} different values")
    if len(ordered) < 2:
        raise TableError(f"target: wanted at least two classes in {name!r}, got one class; take a frame with another")
    return _target(name, ordered, None)


def _no_public_rows(folder: Path, site: str) -> pd.DataFrame:
    raise SourceError("public: wanted csv, parquet or sql for a table, which has no public data set, got public")


def _no_synthetic_rows(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
    raise SourceError("synthetic: wanted csv, parquet or sql for a table, which makes up no rows, got synthetic")
