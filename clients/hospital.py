"""Heart disease at four centres (UCI Heart Disease, Janosi et al. 1988; CC BY 4.0).

Public format: `processed.<site>.data`, comma separated, no header, "?" for missing. A cholesterol or a blood
pressure of 0 is a missing one: Switzerland's cholesterol is 0 in every row.

The filter and the split "flamby" are those of FLamby's Fed-Heart-Disease (Ogier du Terrail et al. 2022), so
that its published numbers can be compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients._pandas import pd
from clients.industry import Filter, IndustryClient
from clients.schema import Column, Schema, Target

__all__ = ["CLIENT", "SCHEMA"]

ORDER = [
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
]
SITES = ("cleveland", "hungarian", "switzerland", "va")

SCHEMA = Schema(
    name="heart",
    version=1,
    columns=(
        # No public file has it; a hospital's own may, and then it is the privacy unit to choose.
        Column(name="patient_id", dtype="text", identifier="hash", nullable=True, required=False),
        Column(name="age", dtype="number", measure="years", low=20, high=90, valid_low=0, valid_high=120),
        Column(name="sex", dtype="flag", measure="1 = male", sensitive=True),
        # 1 typical angina, 2 atypical angina, 3 non-anginal pain, 4 no symptoms
        Column(name="cp", dtype="category", measure="chest pain", categories=("1", "2", "3", "4"), sensitive=True),
        Column(
            name="trestbps",
            dtype="number",
            measure="mmHg",
            low=80,
            high=200,
            valid_low=40,
            valid_high=300,
            nullable=True,
            missing_values=("0",),
            sensitive=True,
        ),
        Column(
            name="chol",
            dtype="number",
            measure="mg/dl",
            low=100,
            high=400,
            valid_low=40,
            valid_high=1000,
            nullable=True,
            missing_values=("0",),
            sensitive=True,
        ),
        Column(name="fbs", dtype="flag", measure="fasting sugar > 120 mg/dl", nullable=True, sensitive=True),
        # 0 normal, 1 ST-T abnormality, 2 left ventricular hypertrophy
        Column(name="restecg", dtype="category", categories=("0", "1", "2"), nullable=True, sensitive=True),
        Column(
            name="thalach",
            dtype="number",
            measure="beats/min",
            low=60,
            high=210,
            valid_low=30,
            valid_high=250,
            nullable=True,
            sensitive=True,
        ),
        Column(name="exang", dtype="flag", measure="angina on exertion", nullable=True, sensitive=True),
        Column(
            name="oldpeak",
            dtype="number",
            measure="mm ST depression",
            low=-2,
            high=6,
            valid_low=-10,
            valid_high=20,
            nullable=True,
            sensitive=True,
        ),
        # 1 up, 2 flat, 3 down
        Column(name="slope", dtype="category", categories=("1", "2", "3"), nullable=True, sensitive=True),
        Column(
            name="ca",
            dtype="number",
            measure="vessels coloured",
            low=0,
            high=3,
            valid_low=0,
            valid_high=3,
            nullable=True,
            sensitive=True,
        ),
        # 3 normal, 6 fixed defect, 7 reversible defect
        Column(name="thal", dtype="category", categories=("3", "6", "7"), nullable=True, sensitive=True),
    ),
    # 0 is no disease, 1 to 4 its degree.
    target=Target(
        name="num",
        kind="binary",
        classes=("no disease", "disease"),
        mapping={"0": "no disease", **dict.fromkeys("1234", "disease")},
    ),
)

FLAMBY_COLUMNS = ("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak", "cp", "restecg")


def read(folder: Path, site: str) -> pd.DataFrame:
    """One centre's file as text."""
    return pd.read_csv(folder / f"processed.{site}.data", header=None, names=ORDER, dtype=str, keep_default_na=False)


def _flamby_rows(frame: pd.DataFrame) -> pd.Series[bool]:
    """Complete without slope, ca and thal. A cholesterol of 0 counts as measured here, as in FLamby."""
    return frame[[*FLAMBY_COLUMNS, "num"]].notna().all(axis=1)


def _flamby_view(schema: Schema) -> Schema:
    """FLamby's 13 inputs: a cholesterol of 0 becomes the middle of the bounds, and no feature says so."""
    return schema.select(FLAMBY_COLUMNS, indicators=False, drop_first=True)


def _flamby_split(labels: NDArray[Any], site: str) -> NDArray[Any]:
    """Two thirds train, one third test, by position: every statement about ε is conditional on this split."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(len(labels))
    train, _ = train_test_split(
        rows,
        train_size=0.66,
        test_size=0.34,
        random_state=43,
        shuffle=True,
        stratify=None if site == "switzerland" else labels,
    )
    parts = np.full(len(labels), "test", dtype="<U10")
    parts[train] = "train"
    return parts


# Per centre, from the published summaries: age mean and spread, share of men, shares of the four kinds of
# chest pain, ECG shares, maximal pulse, the label's intercept, and how often each measurement is missing.
HABITS: Mapping[str, Mapping[str, Any]] = {
    "cleveland": {
        "age": (54.4, 9.0),
        "men": 0.68,
        "cp": (0.08, 0.16, 0.28, 0.48),
        "ecg": (0.50, 0.01, 0.49),
        "pulse": 150.0,
        "sugar": 0.15,
        "intercept": -0.8,
        "missing": {"ca": 0.013, "thal": 0.007},
    },
    "hungarian": {
        "age": (47.8, 7.8),
        "men": 0.72,
        "cp": (0.04, 0.36, 0.18, 0.42),
        "ecg": (0.80, 0.18, 0.02),
        "pulse": 142.0,
        "sugar": 0.07,
        "intercept": -0.75,
        "missing": {"chol": 0.08, "fbs": 0.03, "slope": 0.65, "ca": 0.99, "thal": 0.90},
    },
    "switzerland": {
        "age": (55.3, 9.0),
        "men": 0.92,
        "cp": (0.03, 0.03, 0.14, 0.80),
        "ecg": (0.70, 0.25, 0.05),
        "pulse": 128.0,
        "sugar": 0.10,
        "intercept": 1.9,
        "missing": {"trestbps": 0.02, "fbs": 0.61, "oldpeak": 0.05, "slope": 0.14, "ca": 0.96, "thal": 0.42},
    },
    "va": {
        "age": (59.4, 7.8),
        "men": 0.97,
        "cp": (0.04, 0.07, 0.23, 0.66),
        "ecg": (0.40, 0.46, 0.14),
        "pulse": 128.0,
        "sugar": 0.35,
        "intercept": 0.0,
        "missing": {
            "trestbps": 0.28,
            "chol": 0.035,
            "fbs": 0.035,
            "thalach": 0.265,
            "exang": 0.265,
            "oldpeak": 0.28,
            "slope": 0.51,
            "ca": 0.99,
            "thal": 0.83,
        },
    },
}


def synthesise(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
    """Patients of a centre: the disease first, then what it does to pulse, ECG and angina.

    Shares and means are the public centres'. Their effects, compared by the AUC of a ridge in five-fold
    cross-validation, public / mean of three seeds: cleveland .91/.88, hungarian .91/.81, va .65/.76 (easier here); of
    the ridge of the other two on each: .89/.86, .91/.83, .74/.79. Sick: .46/.44, .36/.36, .75/.80.
    """
    habit = HABITS[site]
    mean_age, spread = map(float, habit["age"])
    pulse_there = float(habit["pulse"])
    age = np.clip(generator.normal(mean_age, spread, rows), 28, 78).round()
    male = generator.random(rows) < habit["men"]
    cp = generator.choice(4, size=rows, p=habit["cp"]) + 1
    risk = 0.05 * (age - 54) + 0.9 * (male - 0.7) + 1.3 * (cp == 4) - 0.5 * (cp == 2)
    sick = generator.random(rows) < 1 / (1 + np.exp(-(risk + habit["intercept"])))
    pulse = pulse_there + 6 - 11 * sick - 0.6 * (age - 54) + generator.normal(0, 19, rows)
    depression = np.maximum(generator.normal(0.1, 0.7, rows) + 0.6 * sick, 0) + 0.2 * generator.random(rows)
    frame = pd.DataFrame(
        {
            "patient_id": [f"synthetic-{number:09d}" for number in generator.integers(0, 10**9, rows)],
            "age": age,
            "sex": male.astype(float),
            "cp": cp.astype(str),
            "trestbps": np.clip(generator.normal(130 + 0.4 * (age - 54), 17, rows), 85, 200).round(),
            "chol": np.clip(generator.normal(246 + 6 * sick, 50, rows), 110, 560).round(),
            "fbs": (generator.random(rows) < habit["sugar"]).astype(float),
            "restecg": generator.choice(3, size=rows, p=habit["ecg"]).astype(str),
            "thalach": np.clip(pulse, 62, 202).round(),
            "exang": (generator.random(rows) < 0.18 + 0.28 * sick).astype(float),
            "oldpeak": depression.round(1),
            "slope": np.where(generator.random(rows) < 0.35 + 0.2 * sick, "2", "1"),
            "ca": np.minimum(generator.poisson(0.4 + 0.45 * sick), 3).astype(float),
            "thal": np.where(generator.random(rows) < 0.25 + 0.3 * sick, "7", "3"),
        }
    )
    for name, rate in habit["missing"].items():
        frame[name] = frame[name].mask(generator.random(rows) < rate)
    if site == "switzerland":
        frame["chol"] = 0.0  # never measured there, and written as 0
    frame["num"] = np.where(sick, generator.integers(1, 5, rows), 0)
    return frame


CLIENT = IndustryClient(
    name="hospital",
    title="Hospital",
    schema=SCHEMA,
    read=read,
    sites=SITES,
    dataset="heart",
    synthesise=synthesise,
    metrics=("auc", "auprc", "accuracy", "ece"),
    splits={"flamby": _flamby_split},
    filters={"flamby": Filter(rows=_flamby_rows, view=_flamby_view)},
    default_rows=400,
)
