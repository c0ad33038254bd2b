"""An insurer and a hospital that know the same patients: a column cut of UCI Heart Disease (see
clients/hospital.py)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clients import hospital
from clients._pandas import pd
from clients.holdings import Case, Holding

__all__ = ["CASE"]

INSURER = ("age", "sex", "trestbps", "chol", "fbs")
HOSPITAL = ("cp", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal")
_BY_NAME = {column.name: column for column in hospital.SCHEMA.columns}


def _cut(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        "insurer": frame[["person", *INSURER, "num"]].copy(),
        "hospital": frame[["person", *HOSPITAL, "num"]].sample(frac=1, random_state=1).reset_index(drop=True),
    }


def read(folder: Path) -> Mapping[str, pd.DataFrame]:
    """All four centres, each row a person with an invented identifier."""
    place = folder / "hospital" / "heart"
    parts = []
    for site in hospital.SITES:
        frame = hospital.read(place, site)
        parts.append(frame.assign(person=[f"{site}-{number}" for number in range(len(frame))]))
    return _cut(pd.concat(parts, ignore_index=True))


def synthesise(generator: np.random.Generator, persons: int) -> Mapping[str, pd.DataFrame]:
    """Patients of one made-up centre."""
    frame = hospital.synthesise(generator, persons, "cleveland")
    return _cut(frame.assign(person=[f"P{number:07d}" for number in range(persons)]))


def _holding(name: str, title: str, columns: tuple[str, ...]) -> Holding:
    return Holding(
        name=name,
        title=title,
        columns=tuple(_BY_NAME[column] for column in columns),
        ids=("person",),
        target=hospital.SCHEMA.target,
    )


CASE = Case(
    name="heart",
    title="An insurer and a hospital that know the same patients",
    holdings={
        "insurer": _holding("insurer", "Insurer", INSURER),
        "hospital": _holding("hospital", "Hospital", HOSPITAL),
    },
    read=read,
    synthesise=synthesise,
    default_rows=900,
)
