"""A participant's own columns become the schema's, exactly, by row, and nothing unknown becomes a value."""

from __future__ import annotations

from fractions import Fraction

import pandas as pd
import pytest
from pydantic import ValidationError

from clients.errors import SchemaError
from clients.mapping import ColumnMap, apply
from clients.measures import conversion
from clients.proposing import FILL_IN, left_over, propose_mapping, rules_of, to_toml
from clients.schema import Column, Schema, Target

SCHEMA = Schema(
    name="heart",
    version=1,
    columns=(
        Column(name="age", dtype="number", measure="years", low=0, high=100, nullable=True),
        Column(name="sex", dtype="flag", nullable=True),
        Column(name="chol", dtype="number", measure="mmol/l", low=2, high=12, nullable=True),
        Column(name="height", dtype="number", measure="m", low=1, high=2.2, nullable=True),
        Column(name="cause", dtype="category", categories=("heart", "lung", "other"), nullable=True),
        Column(name="bmi", dtype="number", low=10, high=60, nullable=True),
    ),
    target=Target(name="ill", kind="binary", classes=("no", "yes")),
)


def mapped(rule: dict, *cells: object, name: str = "chol", column: str = "X") -> list:
    frame = pd.DataFrame({column: list(cells)}, dtype=object)
    return apply({name: ColumnMap(**rule)}, frame, SCHEMA, "mapping")[name].tolist()


def test_codes():
    assert mapped({"column": "x", "values": {"M": "1", "F": "0", "U": ""}}, "M", "f", "U", None, "Q", name="sex") == (
        ["1", "0", None, None, "\0"]  # what no code is, is unreadable: never a value, and set apart with its count
    )
    rule = {"column": "X", "prefixes": {"I": "heart", "J": "lung", "I9": "other"}, "otherwise": "other"}
    assert mapped(rule, "I21", "J44", "I95", "K1", name="cause") == ["heart", "lung", "other", "other"]
    assert mapped({"column": "X", "values": {"<2": "1.9"}}, "<2", "5") == [
        "1.9",
        "5",
    ]  # numbers have others beside codes


@pytest.mark.parametrize(
    ("rule", "cells", "wanted"),
    [
        ({"measure": "cm"}, ("172", "1.5e2", "x", "120/80", None), ["1.72", "1.5", "\0", "\0", None]),
        ({"measure": "inch", "decimals": 2}, ("67.7",), ["1.72"]),
    ],
)
def test_measures(rule, cells, wanted):
    assert mapped({"column": "X", **rule}, *cells, name="height") == wanted


def test_a_conversion_is_exact():
    for number in range(1000, 2200):  # 172 * 0.01 is not 1.72
        assert float(conversion("mm", "m", None, "x").exact(Fraction(number))) == float(f"{number / 1000:.3f}")
    assert conversion("degF", "degC", None, "x").exact(Fraction("98.6")) == 37
    assert conversion("mg/dl", "mmol/l", 386.65, "x").exact(Fraction("386.65")) == 10
    with pytest.raises(SchemaError, match="need molar_mass"):
        conversion("mg/dl", "mmol/l", None, "x")
    with pytest.raises(SchemaError, match="wanted a unit of measure"):
        conversion("foo", "m", None, "x")


def test_ages():
    rule = {"column": "X", "born": "%d.%m.%Y", "on": "2026-06-01"}
    cells = ("01.06.1970", "02.06.1970", "31.02.1970", "01.06.2030", None)
    assert mapped(rule, *cells, name="age") == ["56", "55", "\0", "\0", None]


def test_expressions_and_constants():
    frame = pd.DataFrame({"kg": ["80", "80", "x", None], "m": ["2", "0", "2", "2"]})
    made = apply({"bmi": ColumnMap(expression="kg / m ** 2"), "sex": ColumnMap(constant="1")}, frame, SCHEMA, "mapping")
    assert made["bmi"].tolist() == ["20.0", "\0", "\0", None]
    assert made["sex"].tolist() == ["1"] * 4


@pytest.mark.parametrize(
    ("name", "rule", "said"),
    [
        ("chl", {"column": "X"}, r"mapping\.chl: no column of schema 'heart'; did you mean 'chol'"),
        ("chol", {"column": "Y"}, r"mapping\.chol\.column: wanted column 'Y' in the source"),
        ("sex", {"column": "X", "values": {"M": "man"}}, r"mapping\.sex\.values: wanted one of 0, 1"),
        ("bmi", {"column": "X", "measure": "kg"}, "got none there"),
    ],
)
def test_a_wrong_rule_is_named_by_its_key(name, rule, said):
    with pytest.raises(SchemaError, match=said):
        mapped(rule, "secret", name=name)


@pytest.mark.parametrize(
    "rule",
    [{"values": {"a": "b"}, "constant": "1"}, {"born": "%Y"}, {"otherwise": "1"}, {"column": "a", "expression": "b"}],
)
def test_rules_that_exclude_each_other(rule):
    with pytest.raises(ValidationError):
        ColumnMap(**rule)


def test_a_column_twice_in_the_source_is_refused_by_name():
    frame = pd.DataFrame([[1, 2]], columns=["X", "X"])
    with pytest.raises(SchemaError, match="wanted column 'X' once in the source, got"):
        apply({"age": ColumnMap(column="X")}, frame, SCHEMA, "mapping")


def test_a_proposal_makes_the_rows_fit():
    frame = pd.DataFrame(
        {
            "AGE": ["50", "60", "70", "80"],
            "Sex": ["y", "n", "y", "n"],
            "height (cm)": ["170", "180", "n.d.", "n.d."],
            "cause": ["H", "L", "H", "L"],
            "Chol": ["5", "6", "7", "8"],
            "bmi": ["20", "21", "22", "23"],
            "ill": ["YES", "NO", "NO", "NO"],
        }
    )
    lines = propose_mapping(frame, SCHEMA)
    made = apply(rules_of(lines), frame, SCHEMA, "mapping")
    good, report = SCHEMA.check(made)
    assert report.rows_kept == 4
    assert good["height"].tolist()[:2] == [1.7, 1.8]
    assert good["ill"].tolist() == ["yes", "no", "no", "no"]


def test_a_header_in_capitals_has_the_schemas_unit_and_an_unknown_conversion_is_to_fill_in():
    schema = Schema(
        name="soil",
        version=1,
        columns=(
            Column(name="nitrogen (mg/l)", dtype="number", measure="mg/l", low=0, high=90),
            Column(name="chol", dtype="number", measure="mmol/l", low=0, high=20),
            Column(name="trunk", dtype="number", measure="cm", low=0, high=90),
        ),
        target=Target(name="ill", kind="binary", classes=("no", "yes")),
    )
    cells = {"NITROGEN (MG/L)": ["1"], "CHOL (MG/DL)": ["2"], "TRUNK (MM)": ["30"], "ILL": ["no"], "other": ["x"]}
    frame = pd.DataFrame(cells)
    lines = propose_mapping(frame, schema)
    rules = {line.name: line.rule for line in lines}
    assert rules["nitrogen (mg/l)"] == rules["ill"] == {}
    # Never a made-up molar mass, which would make other numbers of the rows unseen.
    assert rules["chol"] == {"column": "CHOL (MG/DL)", "measure": FILL_IN}
    assert rules["trunk"] == {"column": "TRUNK (MM)", "measure": "mm"}
    with pytest.raises(SchemaError, match="FILL IN"):
        apply(rules_of(lines), frame, schema, "mapping")
    text = to_toml(lines, "soil", left_over(lines, frame))
    assert '# columns of the file that no rule takes: "other"' in text
    assert "mg/dl to mmol/l: wanted the molar mass in g/mol, too" in text


def test_a_rule_says_which_of_two_columns_that_differ_in_case_is_meant():
    schema = Schema(
        name="s",
        version=1,
        columns=(Column(name="age", dtype="number", low=0, high=99),),
        target=Target(name="ill", kind="binary", classes=("no", "yes")),
    )
    frame = pd.DataFrame({"age": ["1"], "AGE": ["2"], "ill": ["no"]})
    with pytest.raises(SchemaError, match="once, got it 2 times"):
        schema.check(frame)
    made = apply({"age": ColumnMap(column="AGE")}, frame, schema, "mapping")
    assert schema.check(made)[0]["age"].tolist() == [2.0]


def test_a_code_spelled_as_a_missing_value_is_a_code_where_the_owner_says_so():
    rule = {"column": "X", "values": {"NA": "heart", "ZA": "lung"}}
    assert mapped(rule, "NA", "ZA", "n/a", "", None, name="cause") == ["heart", "lung", None, None, None]
    # Without a rule it is missing, as pandas has it.
    assert mapped({"column": "X"}, "NA", name="cause") == [None]
