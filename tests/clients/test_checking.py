"""Broken rows are counted by column and rule, wrong columns are named, and no value is ever shown."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from clients.errors import SchemaError
from clients.schema import Column, Schema, Target

SCHEMA = Schema(
    name="toy",
    version=3,
    columns=(
        Column(name="who", dtype="text", identifier="hash", nullable=True, required=False),
        Column(name="serial", dtype="integer", identifier="drop", required=False),
        Column(name="age", dtype="number", low=0, high=100, valid_low=0, valid_high=120),
        Column(name="visits", dtype="integer", low=0, high=10, nullable=True),
        Column(name="smokes", dtype="flag"),
        Column(name="kind", dtype="category", categories=("a", "b")),
    ),
    target=Target(name="y", kind="binary", classes=("0", "1")),
)


def frame(**changes) -> pd.DataFrame:
    rows = {
        "age": [10.0, 20.0, 30.0, 40.0],
        "visits": [1, 2, 3, 4],
        "smokes": [0, 1, 0, 1],
        "kind": ["a", "b", "a", "b"],
        "y": [0, 1, 0, 1],
    }
    return pd.DataFrame(
        {name: pd.Series(changes.get(name, rows.get(name)), dtype=object) for name in {**rows, **changes}}
    )


def test_good_rows_pass_typed():
    good, report = SCHEMA.check(frame())
    assert (report.rows_read, report.rows_kept, dict(report.reasons)) == (4, 4, {})
    assert good["age"].dtype == np.float64


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"age": [10, "old", 30, 40]}, "age: not a number"),
        ({"age": [10, "inf", 30, 40]}, "age: not a number"),
        ({"age": [10, 121, 30, 40]}, "age: outside what is possible"),
        ({"age": [10, None, 30, 40]}, "age: missing"),
        ({"visits": [1, 2.5, 3, 4]}, "visits: not a whole number"),
        ({"smokes": [1, "maybe", 1, 0]}, "smokes: not 0 or 1"),
        ({"kind": ["a", "z", "a", "b"]}, "kind: not one of its categories"),
        ({"y": [0, None, 0, 1]}, "y: missing"),
        ({"y": [0, 5, 0, 1]}, "y: not a class"),
    ],
)
def test_a_broken_row_is_set_apart_and_counted(changes, reason):
    good, report = SCHEMA.check(frame(**changes))
    assert dict(report.reasons) == {reason: 1}
    assert good.index.tolist() == [0, 2, 3]
    assert (report.rows_read, report.rows_kept) == (4, 3)
    assert report.share == 0.25


def test_a_row_with_two_faults_counts_once_as_a_row():
    _, report = SCHEMA.check(frame(age=[10, "old", 30, 40], kind=["a", "z", "z", "b"]))
    assert report.rows_kept == 2
    assert dict(report.reasons) == {"age: not a number": 1, "kind: not one of its categories": 2}


def test_rows_that_share_an_index_label_are_told_apart():
    doubled = frame(age=[10, "old", 30, 40]).set_axis([7, 7, 7, 7])
    good, _ = SCHEMA.check(doubled)
    assert good["age"].tolist() == [10, 30, 40]


def test_a_missing_column_is_named_with_the_columns_wanted_and_a_close_one():
    with pytest.raises(SchemaError, match=r"hearts\.csv: column 'age' is missing.*wants age, visits.*'aged' is close"):
        SCHEMA.check(frame().rename(columns={"age": "aged"}), where="hearts.csv")


def test_names_may_differ_in_case_and_white_space_alone():
    good, report = SCHEMA.check(frame().rename(columns={"age": " AGE", "kind": "Kind"}))
    assert good.equals(SCHEMA.check(frame())[0])
    assert not report.ignored_columns
    both = frame().rename(columns={"age": "Age"}).assign(AGE=[1, 2, 3, 4])  # which of the two is meant?
    with pytest.raises(SchemaError, match="wanted column 'age' once, got it 2 times in upper and lower case"):
        SCHEMA.check(both)


@pytest.mark.parametrize(
    ("column", "values", "wanted"),
    [
        ("age", ["old", "young", None, "old"], "a number"),
        ("smokes", ["maybe"] * 4, "0 or 1"),
        ("kind", ["x"] * 4, "one of a, b"),
        ("y", ["sick"] * 4, "one of 0, 1"),
    ],
)
def test_a_column_without_one_usable_value_is_a_wrong_column(column, values, wanted):
    with pytest.raises(SchemaError, match=f"hearts.csv: column '{column}': wanted {wanted}.*got a column of type") as e:
        SCHEMA.check(frame(**{column: values}), where="hearts.csv")
    assert str(values[0]) not in str(e.value).replace(wanted, "")


def test_a_column_twice_is_refused():
    doubled = pd.concat([frame(), frame()[["age"]]], axis=1)
    with pytest.raises(SchemaError, match="'age' more than once"):
        SCHEMA.check(doubled)


def test_unknown_columns_are_ignored_and_reported():
    good, report = SCHEMA.check(frame(extra=[1, 2, 3, 4]))
    assert report.ignored_columns == ("extra",)
    assert "extra" not in good


def test_identifiers_are_dropped_and_hashed_with_the_key():
    rows = frame(who=["anna", "bert", None, "anna"], serial=[1, 2, 3, 4])
    good, _ = SCHEMA.check(rows, key=b"one")
    again, _ = SCHEMA.check(rows, key=b"one")
    other, _ = SCHEMA.check(rows, key=b"two")
    assert "serial" not in good
    assert good["who"].tolist() == again["who"].tolist()
    assert good["who"][0] == good["who"][3] != good["who"][1]
    assert good["who"][2] is None
    assert good["who"][0] != other["who"][0]
    assert not set(good["who"]) & {"anna", "bert"}


def _generalising(**more) -> Schema:
    return Schema(
        name="toy",
        version=1,
        columns=(Column(identifier="generalise", **more),),
        target=Target(name="y", kind="binary", classes=("0", "1")),
    )


def test_generalise_by_a_function_is_all_that_is_left():
    made = _generalising(name="zip", dtype="category", categories=("10", "20"), generalise=lambda v: v[:2])
    good, report = made.check(pd.DataFrame({"zip": ["10115", "20095", "99999"], "y": [0, 1, 1]}))
    assert good["zip"].tolist() == ["10", "20"]
    assert dict(report.reasons) == {"zip: not one of its categories": 1}
    assert made.features(good).tolist() == [[1, 0], [0, 1]]


def test_generalise_by_a_width_keeps_the_lower_edge():
    made = _generalising(name="born", dtype="number", low=1900, high=2000, generalise=10)
    good, report = made.check(pd.DataFrame({"born": ["1957", "1950", "soon"], "y": [0, 1, 1]}))
    assert good["born"].tolist() == [1950, 1950]
    assert dict(report.reasons) == {"born: not a number": 1}


def test_a_rule_that_fails_sets_the_row_apart_and_says_nothing_of_it():
    made = Schema(
        name="toy",
        version=1,
        columns=(
            Column(name="zip", dtype="text", identifier="generalise", generalise=lambda v: {"1": "one"}[v]),
            Column(name="x", dtype="number", low=0, high=1),
        ),
        target=Target(name="y", kind="binary", classes=("0", "1")),
    )
    good, report = made.check(pd.DataFrame({"zip": ["1", "secret"], "x": [0, 1], "y": [0, 1]}))
    assert good["zip"].tolist() == ["one"]
    assert dict(report.reasons) == {"zip: not text": 1}
    assert "secret" not in str(report)


def test_regression_target_has_bounds():
    made = Schema(
        name="toy",
        version=1,
        columns=(Column(name="x", dtype="number", low=0, high=1),),
        target=Target(name="y", kind="regression", low=0, high=10),
    )
    good, report = made.check(pd.DataFrame({"x": [0, 0, 0], "y": ["5", "11", "many"]}))
    assert made.labels(good).tolist() == [5]
    assert dict(report.reasons) == {"y: outside its bounds": 1, "y: not a number": 1}


def test_a_report_holds_counts_and_no_values():
    _, report = SCHEMA.check(frame(age=[10, "SECRET", 30, 40], kind=["a", "b", "HIDDEN", "b"]))
    assert str(report) == "2 of 4 rows quarantined: age: not a number (1); kind: not one of its categories (1)"
    assert "SECRET" not in repr(report)
    assert "HIDDEN" not in repr(report)


def test_a_wide_schema_is_searched_for_absent_columns_alone(monkeypatch):
    """Looking for what is close to every wanted name took hours at 500 columns, where nothing but one was absent."""
    from clients import _checking

    names = [f"reading_{number}" for number in range(60)]
    schema = Schema(
        name="wide",
        version=1,
        columns=tuple(Column(name=name, dtype="number", low=0, high=1) for name in names),
        target=Target(name="ill", kind="binary", classes=("no", "yes")),
    )
    sought = []
    close = _checking.difflib.get_close_matches
    monkeypatch.setattr(
        _checking.difflib, "get_close_matches", lambda name, *rest: sought.append(name) or close(name, *rest)
    )
    frame = pd.DataFrame({name: ["0.5"] for name in names} | {"ill": ["no"]}).drop(columns="reading_7")
    with pytest.raises(SchemaError, match=r"column 'reading_7' is missing.*is close: rename it"):
        schema.check(frame, key=b"k")
    assert sought == ["reading_7"]
