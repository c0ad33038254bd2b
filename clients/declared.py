"""An industry as data: `clients/NAME.toml` is a whole client without Python.

    schema = 1                          # of this file
    name = "heart"
    version = 1                         # of the columns below

    [target]
    name = "disease"
    kind = "binary"                     # or "multiclass", "multilabel", "regression"
    classes = ["healthy", "ill"]

    [columns.age]
    dtype = "number"                    # number, integer, category, flag, text
    measure = "years"
    low = 18
    high = 90
    to_confirm = ["low", "high"]        # read from rows: say `consortia client confirm heart` once they are public

    [derived.pulse_pressure]
    expression = "systolic - diastolic"
    low = 0
    high = 150

    [recipe]                            # what a contract says unless it says otherwise
    learning_rate = 1.0

Bounds, categories and classes stand in everybody's file, so they must be public knowledge. Rows come from the source
that each policy names; synthetic ones are made from the schema.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clients._pandas import pd
from clients.errors import ClientLoadError, SchemaError, SourceError
from clients.expressions import parse
from clients.industry import IndustryClient
from clients.invented import inventor
from clients.schema import Column, Derived, Schema, Target

__all__ = ["ClientFile", "client_of", "load", "read_file"]

FORMAT: Final = 1
_METRICS: Final = {
    "binary": ("auc", "accuracy", "auprc", "brier", "log_loss"),
    "multiclass": ("accuracy", "macro_auc", "log_loss"),
    "multilabel": ("label_auc", "label_auprc", "label_accuracy", "label_brier"),
    "regression": ("rmse", "mae", "r2"),
}
#: Keys of a column, and of the target, that may be read from rows.
_FROM_ROWS: Final = ("low", "high", "categories", "classes", "missing_values")
_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class ColumnText(_Strict):
    """`[columns.NAME]`: see `clients.schema.Column` for each key."""

    dtype: Literal["number", "integer", "category", "flag", "text"]
    measure: str = ""
    low: _Number | None = None
    high: _Number | None = None
    valid_low: _Number | None = None
    valid_high: _Number | None = None
    categories: tuple[str, ...] = ()
    scores: tuple[_Number, ...] = ()
    nullable: bool = False
    missing_values: tuple[str, ...] = ()
    impute: _Number | str | None = None
    sensitive: bool = False
    identifier: Literal["drop", "hash", "generalise"] | None = None
    generalise: _Number | None = None
    feature: bool = True
    required: bool = True
    to_confirm: tuple[str, ...] = ()


class DerivedText(_Strict):
    """`[derived.NAME]`: a feature computed from one row (`clients.expressions`)."""

    expression: str
    low: _Number
    high: _Number
    measure: str = ""
    to_confirm: tuple[str, ...] = ()


class TargetText(_Strict):
    """`[target]`: see `clients.schema.Target`."""

    name: str
    kind: Literal["binary", "multiclass", "multilabel", "regression"]
    classes: tuple[str, ...] = ()
    mapping: dict[str, str] = Field(default_factory=dict)
    low: _Number | None = None
    high: _Number | None = None
    measure: str = ""
    prior: tuple[_Number, ...] = ()
    to_confirm: tuple[str, ...] = ()


class ClientFile(_Strict):
    """The whole file."""

    schema_version: Annotated[int, Field(alias="schema")]
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]
    title: str = ""
    version: Annotated[int, Field(ge=1)] = 1
    unit: str = "record"
    sites: Annotated[tuple[str, ...], Field(min_length=1)] = ("north", "south")
    metrics: tuple[str, ...] = ()
    synthetic_rows: Annotated[int, Field(ge=1)] = 400
    target: TargetText
    columns: Annotated[dict[str, ColumnText], Field(min_length=1)]
    derived: dict[str, DerivedText] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)

    def digest(self) -> str:
        """Return the SHA-256 of what every participant must have alike: name, version, target, columns, derived."""
        said = self.model_dump(mode="json", include={"name", "version", "unit", "target", "columns", "derived"})
        for part in (said["target"], *said["columns"].values(), *said["derived"].values()):
            del part["to_confirm"]
        # The order of columns is that of the features, so it counts.
        said["columns"], said["derived"] = list(said["columns"].items()), list(said["derived"].items())
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def unconfirmed(self) -> tuple[str, ...]:
        """Return what was read from rows and is not confirmed, such as "age (low, high)"."""
        parts: dict[str, ColumnText | DerivedText | TargetText] = {**self.columns, **self.derived}
        parts[self.target.name] = self.target
        return tuple(f"{name} ({', '.join(part.to_confirm)})" for name, part in parts.items() if part.to_confirm)


def read_file(path: Path) -> ClientFile:
    """Read a client's file strictly.

    Raises
    ------
    ClientLoadError
        Every mistake with file and key, and no value.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ClientLoadError(f"{path}: wanted valid TOML, got a syntax error: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClientLoadError(
            f"{path}: wanted a readable TOML file in UTF-8, got {type(error).__name__}; check the file"
        ) from None
    if data.get("schema") != FORMAT:
        raise ClientLoadError(
            f"{path}: schema: wanted {FORMAT} (what this version reads), got another; use a matching version of "
            "consortia or rewrite the file"
        )
    try:
        file = ClientFile.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise ClientLoadError("; ".join(_sentence(path, item) for item in error.errors()[:10])) from None
    marks = {name: column.to_confirm for name, column in file.columns.items()}
    for name, marked in {**marks, file.target.name: file.target.to_confirm}.items():
        if strange := [key for key in marked if key not in _FROM_ROWS]:
            raise ClientLoadError(
                f"{path}: {name}: to_confirm: wanted some of {', '.join(_FROM_ROWS)}, got {', '.join(strange)}"
            )
    return file


def _sentence(path: Path, item: Any) -> str:
    where = f"{path}: {'.'.join(str(part)[:60] for part in item['loc']) or '(file)'}"
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key; remove it or correct its name"
    if item["type"] == "missing":
        return f"{where}: wanted a value, got none; add the key"
    return f"{where}: wanted {item['msg'].removeprefix('Value error, ').removeprefix('Input should be ')}"


def load(path: Path) -> IndustryClient:
    """Return the client of a file; it is read again when the file has changed.

    Raises
    ------
    ClientLoadError
        The file cannot be used; one sentence with file and key.
    """
    path = path.resolve()
    found = path.stat()
    return _load(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=64)
def _load(path: Path, _changed: int, _size: int) -> IndustryClient:
    file = read_file(path)
    if file.name != path.stem:
        raise ClientLoadError(f"{path}: name: wanted {path.stem!r}, as the file is called, got {file.name!r}")
    try:
        return client_of(file)
    except SchemaError as error:
        raise ClientLoadError(f"{path}: {error}") from None


def client_of(file: ClientFile) -> IndustryClient:
    """Return the client that a file describes; SchemaError where its parts do not fit."""
    schema = Schema(
        name=file.name,
        version=file.version,
        columns=tuple(_column(name, text) for name, text in file.columns.items()),
        derived=tuple(_derived(name, text) for name, text in file.derived.items()),
        target=Target(**file.target.model_dump(exclude={"to_confirm"})),
        unit=file.unit,
    )
    known = {column.name for column in schema.columns if column.is_feature}
    for name, text in file.derived.items():
        if strange := [each for each in parse(text.expression, f"derived {name!r}").names if each not in known]:
            raise SchemaError(
                f"derived {name!r}: wanted feature columns of this file, got {', '.join(strange)}; correct the names"
            )
    return IndustryClient(
        name=file.name,
        title=file.title or file.name.replace("_", " ").replace("-", " ").capitalize(),
        schema=schema,
        read=_reader(file.name),
        sites=file.sites,
        dataset=file.name,
        synthesise=inventor(schema),
        metrics=tuple(dict.fromkeys((*file.metrics, *_METRICS[file.target.kind]))),
        default_rows=file.synthetic_rows,
        digest=file.digest(),
        unconfirmed=file.unconfirmed(),
        recipe=file.recipe,
    )


def _column(name: str, text: ColumnText) -> Column:
    given = text.model_dump(exclude={"to_confirm"}, exclude_none=True)
    return Column(name=name, **given)


def _derived(name: str, text: DerivedText) -> Derived:
    expression = parse(text.expression, f"derived {name!r}")

    def function(frame: pd.DataFrame) -> pd.Series[Any]:
        value = expression({each: frame[each] for each in expression.names})
        # An export hands in its own kind of column, which has no index.
        return pd.Series(value, index=frame.index, dtype=np.float64) if isinstance(frame, pd.DataFrame) else value

    return Derived(name=name, low=text.low, high=text.high, measure=text.measure, function=function)


def _reader(name: str) -> Callable[[Path, str], pd.DataFrame]:
    def read(folder: Path, site: str) -> pd.DataFrame:
        """Return one site's file `SITE.csv` as text, as the source `csv:` reads it."""
        from clients.sources import read_csv

        file = folder / f"{site}.csv"
        if not file.is_file():
            raise SourceError(f"public: wanted {site}.csv in the folder {name}, found none")
        return read_csv(file)

    return read


def shown(file: ClientFile) -> Mapping[str, Any]:
    """Return what a file says, key by key, such as "columns.age.low", for `consortia client diff`."""
    flat: dict[str, Any] = {}
    data = file.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat[prefix] = value

    walk("", data)
    return flat
