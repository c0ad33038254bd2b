"""Patients with breast cancer: does it come back in this year, of those who were free of it until then (GBSG2)?

Public format: `GBSG2.arff` of the German Breast Cancer Study Group 2 (Schumacher et al. 1994; Sauerbrei and Royston
1999), a line a patient: hormone therapy, age, menopause, size and grade of the tumour, positive nodes, progesterone and
oestrogen receptors, days of follow-up, and whether they ended with a recurrence or death (1) or the patient was lost
from sight (0). The project ships none of it; the package scikit-survival holds the file, and nothing here imports it.
There are no sites in it. Four hospitals get uneven shares of each grade.

Time is told in discrete hazards (Cox 1972, section 6; Singer and Willett 1993). A row is a year that a patient began
free of the disease and that was seen to its end, or to the recurrence. Its label is whether the recurrence came in it.
So the logistic loss of the rows is exactly the likelihood of discrete-time hazards with censoring. A year in which a
patient was lost from sight is no row, nor is what lies after six years. The unit of privacy is a patient with all of
its rows, six at most.

`concordance` compares, within a year, who had the recurrence with who was seen to have none: Harrell's index of
censored times.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clients._dealing import dealt
from clients._pandas import pd
from clients.industry import IndustryClient
from clients.schema import Column, Derived, Schema, Target

__all__ = ["CLIENT", "SCHEMA", "at_risk"]

YEARS: Final = 6
_DAYS: Final = 365.25
GRADES: Final = ("I", "II", "III")
#: Each hospital's share of the patients of each grade.
HOSPITALS: Final = {
    "university": (0.24, 0.32, 0.46),
    "city": (0.28, 0.30, 0.22),
    "county": (0.28, 0.22, 0.20),
    "clinic": (0.20, 0.16, 0.12),
}
_FIELDS: Final = ("horTh", "age", "menostat", "tsize", "tgrade", "pnodes", "progrec", "estrec", "time", "cens")


def _log(name: str, high: float) -> Derived:
    def logarithm(frame: pd.DataFrame) -> pd.Series[Any]:
        found: pd.Series[Any] = np.log(frame[name] + 1)
        return found

    return Derived(name=f"log {name}", low=0, high=float(np.log1p(high)), function=logarithm)


def _number(name: str, high: float, measure: str, low: float = 0) -> Column:
    return Column(name=name, dtype="integer", low=low, high=high, valid_low=0, measure=measure, sensitive=True)


SCHEMA: Final = Schema(
    name="survival",
    version=1,
    columns=(
        Column(name="patient", dtype="text", identifier="hash", required=False),
        Column(name="year", dtype="category", categories=tuple(str(year) for year in range(1, YEARS + 1))),
        Column(name="horTh", dtype="category", categories=("no", "yes"), scores=(-1, 1), sensitive=True),
        _number("age", 80, "years", low=20),
        Column(name="menostat", dtype="category", categories=("Pre", "Post"), scores=(-1, 1), sensitive=True),
        _number("tsize", 80, "mm"),
        Column(name="tgrade", dtype="category", categories=GRADES, scores=(-1, 0, 1), sensitive=True),
        _number("pnodes", 30, "lymph nodes"),
        _number("progrec", 1000, "fmol/l"),
        _number("estrec", 1000, "fmol/l"),
    ),
    # Receptors and nodes lie over powers of ten.
    derived=(_log("pnodes", 30), _log("progrec", 1000), _log("estrec", 1000)),
    target=Target(name="recurrence", kind="binary", classes=("no", "yes"), prior=(0.86, 0.14), within="year"),
    unit="patient",
)


def at_risk(days: NDArray[np.float64], recurred: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
    """Tell follow-up in rows: the position of each row's patient, its year from 1 on, and whether the recurrence came.

    Parameters
    ----------
    days : ndarray (n_patients,)
        From the start to the recurrence, or to when the patient was last seen.
    recurred : ndarray of bool (n_patients,)
        False where a patient was lost from sight.

    Returns
    -------
    tuple of ndarray of int64 (n_rows,)
        A patient who was lost in the first year has no row.
    """
    free = np.minimum(days // _DAYS, YEARS).astype(np.int64)
    falls = recurred & (free < YEARS)
    rows = free + falls
    patient = np.repeat(np.arange(len(days)), rows)
    year = np.arange(len(patient)) - np.repeat(np.cumsum(rows) - rows, rows) + 1
    return patient, year, (falls[patient] & (year == rows[patient])).astype(np.int64)


def read(folder: Path, site: str) -> pd.DataFrame:
    """A hospital's patients, a row for each year at risk."""
    lines = (folder / "GBSG2.arff").read_text(encoding="utf-8").splitlines()
    first = [line.strip().lower() for line in lines].index("@data") + 1
    told = [line for line in lines[first:] if line.strip() and not line.startswith("%")]
    cells = [[cell.strip() for cell in line] for line in csv.reader(told, quotechar="'", skipinitialspace=True)]
    frame = pd.DataFrame(cells, columns=list(_FIELDS))
    frame["patient"] = [f"GBSG2 {number}" for number in range(1, len(frame) + 1)]
    grades = frame["tgrade"].map({grade: number for number, grade in enumerate(GRADES)}).to_numpy(np.int64)
    return _rows(frame.iloc[dealt(grades, HOSPITALS, site)])


def _rows(patients: pd.DataFrame) -> pd.DataFrame:
    """Rows of patients with `time` (days) and `cens` (1 where it came back)."""
    days, recurred = patients["time"].to_numpy(np.float64), patients["cens"].to_numpy(np.int64) == 1
    patient, year, came = at_risk(days, recurred)
    found = patients.drop(columns=["time", "cens"]).iloc[patient].reset_index(drop=True)
    return found.assign(year=year.astype(str), recurrence=np.where(came == 1, "yes", "no"))


def synthesise(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
    """Patients whose hazard grows with nodes, size and grade and falls with receptors and therapy; half are lost.

    Every hospital sees other grades.
    """
    shares = np.array([part * whole for part, whole in zip(HOSPITALS[site], (0.12, 0.65, 0.23), strict=True)])
    found: list[pd.DataFrame] = []
    while sum(map(len, found)) < rows:
        many = rows  # enough almost always: a patient has three rows on average
        grade = generator.choice(len(GRADES), many, p=shares / shares.sum())
        age = generator.normal(53, 10, many).clip(21, 80).round()
        nodes = np.minimum(1 + generator.geometric(0.22, many), 40)
        size = generator.lognormal(3.3, 0.45, many).clip(3, 120).round()
        progesterone = np.floor(generator.lognormal(3.4 - 0.6 * grade, 1.7, many)).clip(0, 2000)
        oestrogen = np.floor(generator.lognormal(3.3 - 0.3 * grade, 1.6, many)).clip(0, 1200)
        therapy = generator.random(many) < 0.35
        risk = (
            0.75 * (np.log(nodes) - 1.2)
            + 0.45 * (grade - 1)
            + 0.35 * (np.log(size) - 3.3)
            - 0.25 * (np.log1p(progesterone) - 3.2)
            - 0.5 * therapy
        )
        time = 2700 * (generator.exponential(size=many) / np.exp(risk)) ** 0.75
        seen = generator.uniform(200, 2600, many)
        patients = pd.DataFrame(
            {
                "patient": [f"{site} {number}" for number in generator.integers(10**9, size=many)],
                "horTh": np.where(therapy, "yes", "no"),
                "age": age.astype(int),
                "menostat": np.where(age + generator.normal(0, 4, many) > 50, "Post", "Pre"),
                "tsize": size.astype(int),
                "tgrade": np.array(GRADES)[grade],
                "pnodes": nodes.astype(int),
                "progrec": progesterone.astype(int),
                "estrec": oestrogen.astype(int),
                "time": np.minimum(time, seen),
                "cens": (time <= seen).astype(int),
            }
        )
        found.append(_rows(patients))
    return pd.concat(found, ignore_index=True).iloc[:rows]


CLIENT = IndustryClient(
    name="survival",
    title="Survival",
    schema=SCHEMA,
    read=read,
    sites=tuple(HOSPITALS),
    dataset="hospital/gbsg2",
    synthesise=synthesise,
    metrics=("concordance", "auc", "brier"),
    default_rows=400,
)
