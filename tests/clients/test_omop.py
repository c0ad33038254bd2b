"""The OMOP source: the last value of each concept, conditions with what is below them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy
from omop_export import CHOLESTEROL, INFARCTION, ISCHAEMIC, PAIN, PERSONS, fill

from clients import mapping
from clients.dataset import prepare
from clients.errors import SourceError
from clients.hospital import CLIENT
from clients.mapping import ColumnMap
from clients.sources import parse_source, read_table

ALL = (
    f"person_id,gender,year_of_birth,birth_date,measurement:{CHOLESTEROL},observation:{PAIN},condition:{ISCHAEMIC}+,"
    f"condition:{INFARCTION}"
)


@pytest.fixture
def place(tmp_path: Path) -> str:
    address = f"sqlite:///{tmp_path}/cdm.db"
    engine = sqlalchemy.create_engine(address)
    fill(engine)
    engine.dispose()
    return address


def rows(place: str, options: str) -> list[list[object]]:
    return read_table(parse_source(f"omop:{place}?{options}")).to_numpy(object).tolist()


def change(place: str, statement: str) -> None:
    engine = sqlalchemy.create_engine(place)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def test_a_row_holds_the_last_values_and_the_conditions_of_a_person(place: str) -> None:
    found = rows(place, f"columns={ALL}")
    assert len(found) == PERSONS
    assert found[0] == ["1", "8507", 1951, "1951-03-02", 5.1, "2", 1, 1]
    assert found[1] == ["2", None, 1952, None, 5.2, "3", 0, 0]  # no matching concept, and no whole date of birth
    assert found[2][4] == "4171756 5.3"  # "less than" is no number: its row is set apart
    assert found[3][6:] == [1, 0]  # of the concept above, not of the one below
    assert found[4][4] is None
    earlier = rows(place, f"columns=person_id,measurement:{CHOLESTEROL}&until=2024-01-15")
    assert earlier[0] == ["1", 4.1]


def test_it_is_the_hospitals_rows_by_a_mapping(place: str) -> None:
    assert rows(place, "columns=person_id,gender,birth_date")[0] == ["1", "8507", "1951-03-02"]
    optional = ("trestbps", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal")
    rules = {
        "patient_id": ColumnMap(column="person_id"),
        "age": ColumnMap(expression="2024 - year_of_birth"),
        "sex": ColumnMap(column="gender", values={"8507": "1", "8532": "0"}),
        "cp": ColumnMap(column=f"observation:{PAIN}"),
        "chol": ColumnMap(column=f"measurement:{CHOLESTEROL}", measure="mmol/l", molar_mass=386.65),
        "num": ColumnMap(column=f"condition:{ISCHAEMIC}+", values={"0": "0", "1": "1"}),
        **{name: ColumnMap(constant="") for name in optional},
    }
    frame = mapping.apply(
        rules, read_table(parse_source(f"omop:{place}?columns={ALL}")), CLIENT.schema, "dataset.heart.mapping"
    )
    table = prepare(CLIENT, frame, unit="patient_id")
    assert (len(table), table.n_units) == (18, 18)  # one without a gender, one with a value below a limit
    assert table.quarantine.rows_read == PERSONS


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DROP TABLE measurement", "wanted the table measurement of OMOP 5.4, got none"),
        (
            "UPDATE measurement SET unit_concept_id = 8840 WHERE person_id = 7",
            "wanted one unit_concept_id, got several",
        ),
        ("DELETE FROM person WHERE person_id = 7", "got some who are not in person"),
        ("INSERT INTO person (person_id, year_of_birth) VALUES (7, 1960)", "each person_id once, got one a second"),
        ("ALTER TABLE measurement RENAME COLUMN unit_concept_id TO unit", "wanted the column unit_concept_id of OMOP"),
    ],
)
def test_what_is_not_as_the_model_says_is_refused_by_name(place: str, statement: str, told: str) -> None:
    change(place, statement)
    with pytest.raises(SourceError, match=told) as caught:
        rows(place, f"columns={ALL}")
    assert "1960" not in str(caught.value)


@pytest.mark.parametrize("options", ["columns=age", "columns=gender,gender", "columns=gender&cdm=a;b", "until=x", ""])
def test_options_that_are_wrong_are_refused(options: str) -> None:
    with pytest.raises(SourceError, match="wanted omop:URL"):
        parse_source(f"omop:sqlite:////x.db?{options}")


def test_other_columns_of_one_database_are_of_the_same_persons(place: str) -> None:
    first, second = (parse_source(f"omop:{place}?columns={each}").table for each in ("gender", "birth_date"))
    assert first is not None
    assert second is not None
    assert first.identity() == second.identity()
    assert "cdm.db" not in str(parse_source(f"omop:{place}?columns=gender"))
