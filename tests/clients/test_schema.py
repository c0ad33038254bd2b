"""Columns, bounds, features: public constants and one row at a time."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from clients.errors import SchemaError
from clients.schema import Column, Derived, Schema, Target

TARGET = Target(name="y", kind="binary", classes=("no", "yes"))


def schema(*columns: Column, **more) -> Schema:
    return Schema(name="toy", version=1, columns=columns, target=more.pop("target", TARGET), **more)


def features(made: Schema, **columns) -> np.ndarray:
    rows = len(next(iter(columns.values())))
    good, report = made.check(pd.DataFrame({**columns, "y": ["no"] * rows}))
    assert report.rows_kept == rows, report
    return made.features(good)


NUMBER = Column(name="x", dtype="number", low=10, high=30)


def test_number_is_clamped_and_scaled_by_public_bounds():
    assert features(schema(NUMBER), x=[10, 20, 30, 99, -99]).ravel().tolist() == [-1, 0, 1, 1, -1]


def test_missing_number_is_the_middle_and_has_a_feature_of_its_own():
    made = schema(Column(name="x", dtype="number", low=0, high=4, nullable=True))
    assert made.feature_names == ("x", "x is missing")
    assert features(made, x=[4, None, "?", np.nan, "NA"]).tolist() == [[1, 0]] + [[0, 1]] * 4


def test_missing_number_can_be_a_public_constant():
    made = schema(Column(name="x", dtype="number", low=0, high=4, nullable=True, impute=1))
    assert features(made, x=[None]).tolist() == [[-0.5, 1]]


def test_a_value_can_mean_missing():
    made = schema(Column(name="x", dtype="number", low=0, high=4, nullable=True, missing_values=("0",)))
    assert features(made, x=["0", "0.0", 0, 0.0, 2]).tolist() == [[0, 1]] * 4 + [[0, 0]]


def test_category_is_one_hot_over_the_schemas_list():
    made = schema(Column(name="c", dtype="category", categories=("1", "2"), nullable=True))
    assert made.feature_names == ("c=1", "c=2", "c is missing")
    assert features(made, c=["1.0", 2, None]).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_missing_category_can_be_one_of_the_others():
    made = schema(Column(name="c", dtype="category", categories=("a", "b"), nullable=True, impute="b"))
    assert made.feature_names == ("c=a", "c=b")
    assert features(made, c=["a", None]).tolist() == [[1, 0], [0, 1]]


GRADE = Column(name="c", dtype="category", categories=("low", "mid", "high"), scores=(-1, 0.5, 1), nullable=True)


def test_ordered_category_is_one_feature_of_public_scores():
    made = schema(GRADE)
    assert made.feature_names == ("c", "c is missing")
    assert made.width == 2
    assert features(made, c=["low", "mid", "high", None]).tolist() == [[-1, 0], [0.5, 0], [1, 0], [0, 1]]
    assert made.describe()["columns"][0]["scores"] == [-1, 0.5, 1]
    assert json.loads(json.dumps(made.describe()))["features"] == ["c", "c is missing"]


def test_missing_score_can_be_that_of_a_category_and_then_has_no_feature_of_its_own():
    made = schema(replace(GRADE, impute="mid"))
    assert made.feature_names == ("c",)
    assert features(made, c=["high", None]).tolist() == [[1], [0.5]]


def test_scores_are_selected_like_any_column_and_have_no_first_category_to_drop():
    made = schema(NUMBER, GRADE)
    assert made.select(("c",), indicators=False, drop_first=True).feature_names == ("c",)
    assert made.select(("x",)).feature_names == ("x",)


def test_scored_column_that_is_absent_is_a_missing_one():
    made = schema(NUMBER, replace(GRADE, required=False))
    assert features(made, x=[20]).tolist() == [[0, 0, 1]]


def test_a_category_outside_the_list_is_quarantined_with_scores_too():
    good, report = schema(GRADE).check(pd.DataFrame({"c": ["low", "top"], "y": ["no", "no"]}))
    assert len(good) == 1
    assert report.reasons == {"c: not one of its categories": 1}


def test_a_column_that_is_no_feature_is_checked_and_kept_and_unseen():
    made = schema(NUMBER, replace(GRADE, feature=False), Column(name="n", dtype="integer", feature=False))
    assert made.feature_columns == ("x",)
    good, report = made.check(pd.DataFrame({"x": [20, 20], "c": ["low", "top"], "n": [1, 2], "y": ["no", "no"]}))
    assert report.rows_kept == 1
    assert good[["c", "n"]].to_numpy().tolist() == [["low", 1.0]]
    assert made.features(good).tolist() == [[0]]
    with pytest.raises(SchemaError, match="not a feature"):
        made.select(("c",))


def test_flag_reads_the_usual_words():
    made = schema(Column(name="f", dtype="flag", nullable=True))
    values = ["1", "0", "yes", "No", True, False, 1.0, None]
    assert features(made, f=values)[:, 0].tolist() == [1, 0, 1, 0, 1, 0, 1, 0]


def test_text_and_hidden_identifiers_are_no_features():
    made = schema(
        NUMBER,
        Column(name="note", dtype="text"),
        Column(name="id", dtype="integer", identifier="drop"),
        Column(name="who", dtype="text", identifier="hash"),
    )
    assert made.feature_names == ("x",)


def test_derived_sees_feature_columns_only():
    seen = []

    def double(frame: pd.DataFrame) -> pd.Series:
        seen.extend(frame.columns)
        return frame["x"] * 2

    made = schema(
        NUMBER,
        Column(name="who", dtype="text", identifier="hash"),
        derived=(Derived(name="double", low=0, high=80, function=double),),
    )
    assert features(made, x=[20], who=["a"]).tolist() == [[0, 0]]
    assert seen == ["x"]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_derived_that_is_not_finite_becomes_the_middle(odd):
    made = schema(NUMBER, derived=(Derived(name="d", low=0, high=2, function=lambda f: f["x"] * 0 + odd),))
    assert features(made, x=[20]).tolist() == [[0, 0]]


def test_select_chooses_features_and_leaves_the_check_alone():
    made = schema(NUMBER, Column(name="c", dtype="category", categories=("a", "b"), nullable=True))
    assert made.select(("x",)).feature_names == ("x",)
    assert made.select(("c",), indicators=False, drop_first=True).feature_names == ("c=b",)
    with pytest.raises(SchemaError, match="'c'"):
        made.select(("x",)).check(pd.DataFrame({"x": [1], "y": ["no"]}))


def test_select_of_an_unknown_column_names_it_and_a_close_one():
    with pytest.raises(SchemaError, match=r"'xx'.*did you mean 'x'.*wanted some of x"):
        schema(NUMBER).select(("xx",))


def test_features_are_float32_and_width_is_their_number():
    made = schema(NUMBER)
    assert features(made, x=[10]).dtype == np.float32
    assert made.width == len(made.feature_names) == 1
    empty, _ = made.check(pd.DataFrame({"x": [], "y": []}))
    assert made.features(empty).shape == (0, 1)


def test_labels_follow_the_order_of_classes():
    target = Target(name="y", kind="multiclass", classes=("b", "a", "c"))
    made = schema(NUMBER, target=target)
    good, _ = made.check(pd.DataFrame({"x": [10, 10, 10], "y": ["a", "b", "c"]}))
    assert made.labels(good).tolist() == [1, 0, 2]
    assert made.labels(good).dtype == np.int64


def test_mapping_leads_from_the_sources_values_to_classes():
    target = Target(name="y", kind="binary", classes=("no", "yes"), mapping={"0": "no", "1": "yes", "2": "yes"})
    made = schema(NUMBER, target=target)
    good, report = made.check(pd.DataFrame({"x": [10] * 4, "y": [0, 1.0, "2", "3"]}))
    assert made.labels(good).tolist() == [0, 1, 1]
    assert report.reasons == {"y: not a class": 1}


def test_describe_is_json():
    made = schema(NUMBER, derived=(Derived(name="d", low=0, high=2, function=lambda f: f["x"]),))
    assert json.loads(json.dumps(made.describe()))["features"] == ["x", "d"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Column(name="x", dtype="number"), "finite public bounds"),
        (lambda: Column(name="x", dtype="number", low=2, high=1), "low < high"),
        (lambda: Column(name="x", dtype="number", low=0, high=math.inf), "finite"),
        (lambda: Column(name="x", dtype="number", low=0, high=1, impute=5), "impute"),
        (lambda: Column(name="x", dtype="flag", impute=0.5), "impute"),
        (lambda: Column(name="x", dtype="category"), "categories"),
        (lambda: Column(name="x", dtype="category", categories=("a", "a")), "distinct"),
        (lambda: Column(name="x", dtype="flag", categories=("a",)), "categories are for"),
        (lambda: Column(name="x", dtype="number", low=0, high=1, scores=(0,)), "scores are for"),
        (lambda: Column(name="x", dtype="category", categories=("a", "b"), scores=(0,)), "a score for each of 2"),
        (lambda: Column(name="x", dtype="category", categories=("a",), scores=(2,)), r"within \[-1, 1\]"),
        (lambda: Column(name="x", dtype="category", categories=("a",), scores=(math.nan,)), r"within \[-1, 1\]"),
        (lambda: Column(name="x", dtype="text", identifier="generalise"), "generalise"),
        (lambda: Column(name="x", dtype="flag", required=False), "nullable"),
        (lambda: Derived(name="d", low=1, high=1, function=lambda f: f["x"]), "low < high"),
        (lambda: Target(name="y", kind="binary", classes=("a",)), "2 classes"),
        (lambda: Target(name="y", kind="multiclass", classes=("a", "b")), "3 or more"),
        (lambda: Target(name="y", kind="regression", classes=("a", "b")), "none for"),
        (lambda: Target(name="y", kind="regression", low=1.0), "low < high"),
        (lambda: Target(name="y", kind="binary", classes=("a", "b"), mapping={"1": "c"}), "mapping"),
        (lambda: schema(NUMBER, NUMBER), "twice"),
        (lambda: schema(NUMBER, unit="who"), "unit 'who'"),
        (lambda: schema(Column(name="t", dtype="text")), "no column is a feature"),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(wrong, says):
    with pytest.raises(SchemaError, match=says):
        wrong()
