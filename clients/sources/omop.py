"""Reads a database in the OMOP Common Data Model 5.4, as hospitals' research databases are: one row a person.

https://ohdsi.github.io/CommonDataModel/cdm54.html. Only SELECTs of its tables are sent; nothing is written.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from clients.sources.database import connected, identity_of
from clients.sources.table import TableSource, WrongRowsError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

__all__ = ["Omop"]

#: Names of columns that are of the person.
_OF_PERSON: Final = {
    "person_id": "person_id",
    "gender": "gender_concept_id",
    "year_of_birth": "year_of_birth",
    "birth_date": "birth_date",
}
#: The tables of clinical events, by the first word of a column's name: their key, concept and date.
_EVENTS: Final = {
    "measurement": ("measurement", "measurement_id", "measurement_concept_id", "measurement_date"),
    "observation": ("observation", "observation_id", "observation_concept_id", "observation_date"),
    "condition": (
        "condition_occurrence",
        "condition_occurrence_id",
        "condition_concept_id",
        "condition_start_date",
    ),
}
_COLUMN: Final = re.compile(r"^(measurement|observation|condition):(\d{1,12})(\+?)$")
#: With this operator the value of a measurement is exactly its value ("="), not a bound.
_EQUALS: Final = 4172703


@dataclass(frozen=True, kw_only=True)
class Omop(TableSource):
    """Persons with measurements, observations and conditions; `location` is an address of SQLAlchemy.

    Parameters
    ----------
    columns : str
        With commas between them: `person_id`, `gender` (a concept: 8507 is male, 8532 female), `year_of_birth`,
        `birth_date`; `measurement:CONCEPT` or `observation:CONCEPT`, which is the person's last value by its date; and
        `condition:CONCEPT`, which is 1 where the person has the condition, else 0. A `+` behind a concept takes its
        descendants, too (the table concept_ancestor).
    cdm : str
        Schema of the database in which the tables lie; its own default without one.
    until : date
        The last day that counts, such as 2024-12-31; all days without it.
    """

    columns: str
    cdm: str = ""
    until: datetime.date | None = None
    form = "omop:URL?columns=person_id,gender,birth_date,measurement:CONCEPT,condition:CONCEPT+"
    wanted = "a database in the OMOP Common Data Model 5.4 (check the URL, the option cdm, and that it runs)"

    def __post_init__(self) -> None:
        names = self._names()
        if len(set(names)) < len(names) or not all(name in _OF_PERSON or _COLUMN.match(name) for name in names):
            raise ValueError(
                f"option columns: wanted different ones of {', '.join(_OF_PERSON)}, measurement:CONCEPT, "
                "observation:CONCEPT and condition:CONCEPT, with commas between them, got another one"
            )
        if self.cdm and not re.match(r"^[A-Za-z_]\w*$", self.cdm):
            raise ValueError("option cdm: wanted the plain name of a schema, got something else")

    def _names(self) -> list[str]:
        return [name.strip() for name in self.columns.split(",")]

    def read(self) -> pd.DataFrame:
        """See `TableSource.read`."""
        names = self._names()
        with connected(self.location) as connection:
            held = _Held(connection, self.cdm, self.until)
            persons = held.persons()
            found = {name: held.values(name) for name in names if name not in _OF_PERSON}
        for name, values in found.items():
            if values.keys() - persons.keys():
                raise WrongRowsError(f"column {name}: wanted the person of each event, got some who are not in person")
        rows = [
            [person[name] if name in _OF_PERSON else found[name].get(own, _absent(name)) for name in names]
            for own, person in persons.items()
        ]
        return pd.DataFrame(rows, columns=pd.Index(names), dtype=object)

    def identity(self) -> tuple[str, ...]:
        """Return which database it is: other columns of it are of the same persons."""
        return identity_of(self.location, self.cdm)

    def shown(self) -> str:
        """See `TableSource.shown`."""
        return "(a database)"


def _absent(name: str) -> int | None:
    return 0 if name.startswith("condition:") else None


@dataclass
class _Held:
    """What a database holds up to a day."""

    connection: Connection
    cdm: str
    until: datetime.date | None
    tables: dict[str, Table] = field(default_factory=dict)

    def table(self, name: str) -> Table:
        """Return a table as the database has it; WrongRowsError where there is none."""
        import sqlalchemy

        if name not in self.tables:
            try:
                self.tables[name] = sqlalchemy.Table(
                    name, sqlalchemy.MetaData(), autoload_with=self.connection, schema=self.cdm or None
                )
            except sqlalchemy.exc.NoSuchTableError:
                raise WrongRowsError(f"wanted the table {name} of OMOP 5.4, got none; see the option cdm") from None
        return self.tables[name]

    def columns(self, name: str, *wanted: str) -> list[Any]:
        """Return columns of a table; WrongRowsError naming one that it lacks."""
        table = self.table(name)
        if lacking := [each for each in wanted if each not in table.c]:
            raise WrongRowsError(f"table {name}: wanted the column {lacking[0]} of OMOP 5.4, got none")
        return [table.c[each] for each in wanted]

    def persons(self) -> dict[str, dict[str, Any]]:
        """Return every person's own columns, by person_id as text."""
        import sqlalchemy

        parts = ("year_of_birth", "month_of_birth", "day_of_birth")
        wanted = self.columns("person", "person_id", "gender_concept_id", *parts)
        people: dict[str, dict[str, Any]] = {}
        for own, gender, year, month, day in self.connection.execute(sqlalchemy.select(*wanted).order_by(wanted[0])):
            if str(own) in people:
                raise WrongRowsError("table person: wanted each person_id once, got one a second time")
            whole = None not in (year, month, day)
            people[str(own)] = {
                "person_id": str(own),
                "gender": None if not gender else str(gender),  # concept 0 is "no matching concept"
                "year_of_birth": year,
                "birth_date": f"{year:04d}-{month:02d}-{day:02d}" if whole else None,
            }
        return people

    def values(self, name: str) -> dict[str, Any]:
        """Return the last value of a concept by person, or 1 for a condition."""
        import sqlalchemy

        kind, concept, below = _COLUMN.match(name).groups()  # type: ignore[union-attr]  # checked when it was parsed
        table, key, concept_column, date_column = _EVENTS[kind]
        person, number, code, date = self.columns(table, "person_id", key, concept_column, date_column)
        query = code.in_(self._descendants(int(concept)) if below else [int(concept)])
        if self.until is not None:
            query &= date <= self.until
        if kind == "condition":
            found = self.connection.execute(sqlalchemy.select(person).where(query).distinct())
            return {str(own): 1 for (own,) in found}
        held = ("value_as_number", "value_as_concept_id", "unit_concept_id")
        values = self.columns(table, *held, *(["operator_concept_id"] if kind == "measurement" else []))
        rows = self.connection.execute(sqlalchemy.select(person, *values).where(query).order_by(date, number))
        return _last(name, rows)

    def _descendants(self, concept: int) -> list[int]:
        """Return the concept and all below it."""
        import sqlalchemy

        above, below = self.columns("concept_ancestor", "ancestor_concept_id", "descendant_concept_id")
        found = self.connection.execute(sqlalchemy.select(below).where(above == concept))
        return sorted({concept, *(int(each) for (each,) in found)})


def _last(name: str, rows: Iterable[Any]) -> dict[str, Any]:
    """Return the last value by person; rows come in order of their dates."""
    found: dict[str, Any] = {}
    units: set[Any] = set()
    for own, number, concept, unit, *operator in rows:
        if number is None:
            if concept:
                found[str(own)] = str(concept)
            continue
        units.add(unit)
        if len(units) > 1:
            # The units are not repeated: they are of the database.
            raise WrongRowsError(f"column {name}: wanted one unit_concept_id, got several; a mapping converts one")
        value = float(number)
        exact = not operator or operator[0] in (None, 0, _EQUALS)
        # "< 5" is no number: its row is set apart.
        found[str(own)] = value if exact else f"{operator[0]} {value:g}"
    return found
