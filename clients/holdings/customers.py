"""A bank, a hospital and a factory that know some of the same persons (all made up).

The bank wants to know who will default. What the hospital knows (long illness) and what the factory knows (short-time
work, garnished wages) tells more than its own columns. The hospital knows about 70 % and the factory about 60 % of the
bank's customers, and each knows other persons, too. Each organisation spells identifiers in its own way; 1 % are
missing and 2 % are mistyped.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clients._pandas import pd
from clients.holdings import NEW, Case, holdings_of
from clients.schema import Column, Target

__all__ = ["CASE"]

_COLUMNS = {
    "bank": (
        Column(name="age", dtype="integer", measure="years", low=18, high=80),
        Column(name="balance", dtype="number", measure="EUR", low=-5000, high=30000),
        Column(name="credit_used", dtype="number", measure="share of the limit", low=0, high=1.2, nullable=True),
        Column(name="months_here", dtype="integer", measure="months", low=0, high=360),
    ),
    "hospital": (
        Column(name="days_ill", dtype="integer", measure="days a year", low=0, high=200, sensitive=True),
        Column(name="admissions", dtype="integer", measure="a year", low=0, high=8, sensitive=True),
        Column(name="chronic", dtype="flag", measure="1 = chronic disease", sensitive=True),
        Column(name="bmi", dtype="number", measure="kg/m2", low=15, high=45, nullable=True, sensitive=True),
    ),
    "factory": (
        Column(name="contract", dtype="category", categories=("permanent", "fixed-term", "agency")),
        Column(name="short_time", dtype="number", measure="share of hours lost", low=0, high=1),
        Column(name="garnished", dtype="flag", measure="1 = wages garnished", sensitive=True),
        Column(name="shift", dtype="category", categories=("day", "night")),
    ),
}
_TITLES = {"bank": "Bank", "hospital": "Hospital", "factory": "Factory"}
_SHARE = {"bank": 0.75, "hospital": 0.70, "factory": 0.60}


def synthesise(generator: np.random.Generator, persons: int) -> Mapping[str, pd.DataFrame]:
    """Persons first, then who knows whom, then what each house writes down."""
    health, work = generator.normal(0, 1, persons), generator.normal(0, 1, persons)
    money = generator.normal(0, 1, persons)
    age = np.clip(20 + generator.gamma(3.5, 6.5, persons), 18, 80).round()
    chronic = generator.random(persons) < 1 / (1 + np.exp(2.0 - 0.9 * health))
    garnished = generator.random(persons) < 1 / (1 + np.exp(3.0 - 1.4 * work))
    short = np.clip(generator.beta(1, 6, persons) + 0.12 * work, 0, 1)
    odds = -2.3 + 0.75 * money + 0.95 * health + 0.95 * work + 0.35 * np.maximum(health, 0) * np.maximum(work, 0)
    frame = pd.DataFrame(
        {
            "age": age.astype(int),
            "balance": np.clip(4000 - 2500 * money + generator.normal(0, 2500, persons), -5000, 30000).round(2),
            "credit_used": np.clip(0.4 + 0.2 * money + generator.normal(0, 0.2, persons), 0, 1.2).round(3),
            "months_here": generator.integers(0, 240, persons),
            "days_ill": np.clip(generator.poisson(np.exp(1.9 + 0.8 * health)), 0, 200),
            "admissions": np.minimum(generator.poisson(np.exp(-1.2 + 0.8 * health)), 8),
            "chronic": chronic.astype(int),
            "bmi": np.clip(generator.normal(26 + health, 4), 16, 45).round(1),
            "contract": np.where(
                work + generator.normal(0, 0.8, persons) > 1, "agency", np.where(work > 0.2, "fixed-term", "permanent")
            ),
            "short_time": short.round(3),
            "garnished": garnished.astype(int),
            "shift": generator.choice(["day", "night"], persons, p=(0.7, 0.3)),
            "default": (generator.random(persons) < 1 / (1 + np.exp(-odds))).astype(int),
        }
    )
    for name in ("credit_used", "bmi"):
        frame[name] = frame[name].mask(generator.random(persons) < 0.03)
    numbers = generator.permutation(10 * persons)[:persons] + 10**8
    spelled = {
        "bank": [f"DE{n:010d}" for n in numbers],
        "hospital": [f"de {n // 10**5:05d}-{n % 10**5:05d}" for n in numbers],
        "factory": [f"DE.{n:010d} " for n in numbers],
    }
    known = {name: generator.random(persons) < share for name, share in _SHARE.items()}
    parts = {}
    for name, columns in _COLUMNS.items():
        ids = np.array(spelled[name], dtype=object)
        wrong = generator.random(persons)
        typed = np.array([f"{text.strip()[:-1]}X" for text in ids], dtype=object)
        ids = np.where(wrong < 0.02, typed, np.where(wrong < 0.03, "", ids))
        wanted = [column.name for column in columns] + (["default"] if name == "bank" else [])
        mine = frame.loc[known[name], wanted].assign(national_id=ids[known[name]])
        order = generator.permutation(len(mine))
        parts[name] = mine.iloc[order].reset_index(drop=True)
        if name == "bank":
            # Who asks for a first account: the others may know them, the bank knows no label yet.
            new = frame.loc[~known[name], wanted[:-1]].assign(national_id=ids[~known[name]])
            parts[f"{name}{NEW}"] = new.reset_index(drop=True)
    return parts


CASE = Case(
    name="customers",
    title="A bank, a hospital and a factory that know some of the same persons",
    holdings=holdings_of(
        _TITLES,
        _COLUMNS,
        ids=("national_id",),
        owner="bank",
        target=Target(
            name="default", kind="binary", classes=("pays", "defaults"), mapping={"0": "pays", "1": "defaults"}
        ),
    ),
    synthesise=synthesise,
    default_rows=4000,
)
