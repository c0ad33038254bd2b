"""A small synthetic export in the OMOP Common Data Model 5.4: twenty persons, made up."""

from __future__ import annotations

import datetime

import sqlalchemy
from sqlalchemy import Column, Date, Integer, MetaData, Numeric, Table

CHOLESTEROL, PAIN, ISCHAEMIC, INFARCTION, MMOL = 3027114, 4000001, 4185932, 4329847, 8753
PERSONS = 20


def fill(engine: sqlalchemy.Engine, schema: str | None = None) -> None:
    """Make the tables that the source reads, and fill them."""
    meta = MetaData(schema=schema)

    def table(name: str, *columns: str) -> Table:
        kinds = [
            Column(each, Date if each.endswith("date") else Numeric(10, 2) if "number" in each else Integer)
            for each in columns
        ]
        return Table(name, meta, *kinds)

    born = ("year_of_birth", "month_of_birth", "day_of_birth")
    person = table("person", "person_id", "gender_concept_id", *born)
    held = ("value_as_number", "value_as_concept_id", "unit_concept_id")
    measurement = table(
        "measurement", "measurement_id", "person_id", "measurement_concept_id", "measurement_date",
        "operator_concept_id", *held,
    )  # fmt: skip
    observation = table(
        "observation", "observation_id", "person_id", "observation_concept_id", "observation_date", *held
    )
    condition = table(
        "condition_occurrence", "condition_occurrence_id", "person_id", "condition_concept_id", "condition_start_date"
    )
    ancestor = table("concept_ancestor", "ancestor_concept_id", "descendant_concept_id")
    meta.create_all(engine)
    day = datetime.date(2024, 1, 1)
    people = [
        {"person_id": n, "gender_concept_id": 8507 if n % 2 else 8532, "year_of_birth": 1950 + n}
        | {"month_of_birth": 3, "day_of_birth": 1 + n}
        for n in range(1, PERSONS + 1)
    ]
    people[1] |= {"month_of_birth": None, "gender_concept_id": 0}
    values = [
        {"measurement_id": 100 * n + k, "person_id": n, "measurement_concept_id": CHOLESTEROL, "unit_concept_id": MMOL}
        | {"measurement_date": day + datetime.timedelta(days=30 * k), "value_as_number": 4 + n / 10 + k}
        | {"operator_concept_id": 4171756 if (n, k) == (3, 1) else None}
        for n in range(1, PERSONS + 1)
        for k in (0, 1)
        if n != 5
    ]
    pains = [
        {"observation_id": n, "person_id": n, "observation_concept_id": PAIN, "observation_date": day}
        | {"value_as_concept_id": 1 + n % 4}
        for n in range(1, PERSONS + 1)
    ]
    ill = [
        {"condition_occurrence_id": n, "person_id": n, "condition_start_date": day}
        | {"condition_concept_id": INFARCTION if n % 2 else ISCHAEMIC}
        for n in range(1, PERSONS + 1, 3)
    ]
    below = [{"ancestor_concept_id": ISCHAEMIC, "descendant_concept_id": each} for each in (ISCHAEMIC, INFARCTION)]
    with engine.begin() as connection:
        for where, rows in (
            (person, people), (measurement, values), (observation, pains), (condition, ill), (ancestor, below)
        ):  # fmt: skip
            connection.execute(where.insert(), rows)
