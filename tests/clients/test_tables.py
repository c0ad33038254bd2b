"""A schema from declarations or from rows: what it holds, what it refuses, that a file keeps it."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clients import registry, tables
from clients.errors import ClientLoadError, SourceError, TableError
from clients.schema import Column, Derived, Schema
from clients.sources import parse_source, read
from clients.tables import declare_schema, infer_schema

SECRET = "471147-1147"
FRAMES = [
    pd.DataFrame({"age": [30, 41], "smoker": [True, False], "town": ["b", None], "y": ["no", "yes"]}),
    pd.DataFrame(
        {"age": [55.5, np.nan], "smoker": [True, True], "town": ["a", "b"], "y": ["no", "no"], "more": [1, 2]}
    ),
]


def columns(schema: Schema) -> dict[str, Column]:
    return {column.name: column for column in schema.columns}


def test_rows_give_bounds_categories_and_classes() -> None:
    schema = infer_schema(FRAMES, "y")
    found = columns(schema)
    assert (found["age"].dtype, found["age"].low, found["age"].high, found["age"].nullable) == (
        "number",
        30,
        55.5,
        True,
    )
    assert (found["smoker"].dtype, found["smoker"].nullable) == ("flag", False)
    assert (found["town"].categories, found["town"].nullable) == (("a", "b"), True)
    assert (found["more"].required, found["more"].nullable) == (False, True)
    assert (schema.target.kind, schema.target.classes) == ("binary", ("no", "yes"))
    for frame in FRAMES:
        good, report = schema.check(tables.rows_of(schema, frame))
        assert report.rows_kept == 2
        assert np.abs(schema.features(good)).max() <= 1


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        ([1, 2, 10, 1], "multiclass", ("1", "2", "10")),
        ([True, False, True, True], "binary", ("0", "1")),
        ([0.5, 1.0, 2.0, 3.0], "regression", ()),
        (range(40), "regression", ()),
        (["b", "a", "c", "a"], "multiclass", ("a", "b", "c")),
    ],
)
def test_the_kind_of_a_target(values: Any, kind: str, classes: tuple[str, ...]) -> None:
    target = infer_schema([pd.DataFrame({"x": range(len(values)), "y": list(values)})], "y").target
    assert (target.kind, target.classes) == (kind, classes)


def test_a_target_is_what_the_caller_says() -> None:
    frame = pd.DataFrame({"x": [1, 2, 3], "y": [1, 2, 3]})
    assert infer_schema([frame], "y", kind="regression").target.high == 3


def test_declarations_read_no_row() -> None:
    schema = declare_schema(
        {"age": (18, 90), "town": ["a", "b"], "smoker": bool, "own": Column(name="", dtype="number", low=0, high=1)},
        "y",
        classes=[0, 1],
        nullable=["age"],
        identifiers=["patient"],
    )
    found = columns(schema)
    assert (found["age"].low, found["age"].high, found["age"].nullable) == (18, 90, True)
    assert (found["town"].categories, found["smoker"].dtype, found["own"].high) == (("a", "b"), "flag", 1)
    assert (found["patient"].identifier, found["patient"].is_feature) == ("hash", False)
    assert schema.target.classes == ("0", "1")
    assert declare_schema({"x": (0, 1)}, "y", bounds=(0, 9)).target.scale == (4.5, 4.5)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: infer_schema([], "y"), "frames"),
        (lambda: infer_schema(FRAMES, "z"), "target"),
        (lambda: infer_schema([pd.DataFrame({"d": [datetime.date(1979, 1, 1)], "y": [1]})], "y"), "'d'"),
        (
            lambda: infer_schema([pd.DataFrame({"id": [f"{SECRET}{i}" for i in range(60)], "y": range(60)})], "y"),
            "'id'",
        ),
        (lambda: infer_schema([pd.DataFrame({"x": [1, 2], "y": [SECRET, SECRET]})], "y"), "one class"),
        (lambda: infer_schema([pd.DataFrame({"x": [1, 2], "y": [None, None]})], "y"), "target"),
        (lambda: infer_schema([pd.DataFrame([[1, 2]], columns=["y", "y"])], "y"), "frame 0"),
        (lambda: infer_schema([pd.DataFrame({"x": [1, 2], "y": ["a", "b"]})], "y", kind="regression"), "kind"),
        (lambda: infer_schema([pd.DataFrame({"x": [1, 2], "y": ["a", "b"]})], "y", kind="multiclass"), "kind"),
        (lambda: declare_schema({"x": "text"}, "y", classes=[0, 1]), "'x'"),
        (lambda: declare_schema({"x": (0, 1)}, "y", classes=[1, 1]), "classes"),
        (lambda: declare_schema({"x": (0, 1)}, "y", classes=[0, 1], bounds=(0, 1)), "bounds"),
        (lambda: declare_schema({"x": (0, 1)}, "y", nullable=["z"]), "nullable"),
    ],
)
def test_what_makes_no_schema_is_named_without_a_value(make: Any, named: str) -> None:
    with pytest.raises(TableError, match="wanted") as error:
        make()
    assert isinstance(error.value, ValueError)
    assert named in str(error.value)
    assert SECRET not in str(error.value)


def test_a_file_keeps_the_schema_and_its_name(tmp_path: Path) -> None:
    schema = declare_schema({"age": (18, 90), "town": ["a", "b"]}, "y", classes=[0, 1, 2], identifiers=["id"])
    assert tables.from_json(tables.to_json(schema)) == schema
    client = tables.industry_of(schema)
    wider = declare_schema({"age": (18, 91), "town": ["a", "b"]}, "y", classes=[0, 1, 2], identifiers=["id"])
    assert tables.industry_of(wider).name != client.name
    tables.keep(tmp_path, schema, inferred=False)
    assert tables.known_from(tmp_path)["inferred"] is False
    assert registry.get(client.name) == client
    assert client.name in registry.names()
    assert tables.known_from(tmp_path / "elsewhere") == {}


def test_a_held_name_is_nobody_elses() -> None:
    client = tables.industry_of(declare_schema({"x": (0, 1)}, "y", classes=[0, 1]))
    registry.hold(client)
    registry.hold(client)
    with pytest.raises(ClientLoadError, match="taken"):
        registry.hold(dataclasses.replace(client, title="another"))
    with pytest.raises(ClientLoadError, match="taken"):
        registry.hold(dataclasses.replace(client, name="bank"))


def test_a_schema_with_a_function_fits_no_file() -> None:
    schema = declare_schema({"x": (0, 1)}, "y", classes=[0, 1])
    own = Derived(name="twice", low=0, high=2, function=lambda frame: frame["x"] * 2)
    with pytest.raises(TableError, match="without functions"):
        tables.to_json(dataclasses.replace(schema, derived=(own,)))


@pytest.mark.parametrize("source", ["synthetic:9", "public:/nowhere/at/all"])
def test_a_table_has_no_rows_of_its_own(source: str) -> None:
    client = tables.industry_of(declare_schema({"x": (0, 1)}, "y", classes=[0, 1]))
    with pytest.raises(SourceError, match="wanted"):
        read(parse_source(source), client, tables.SITE)
