"""An employer, a credit bureau and a bank that know the same card holders: a column cut of UCI Default of Credit Card
Clients (Yeh & Lien 2009; CC BY 4.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clients._pandas import pd
from clients.holdings import Case, holdings_of
from clients.schema import Column, Target

__all__ = ["CASE"]

BILLS = tuple(f"BILL_AMT{month}" for month in range(1, 7))
PAID = tuple(f"PAY_AMT{month}" for month in range(1, 7))
DELAYS = ("PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_5", "PAY_6")
LABEL = "default.payment.next.month"


def _money(name: str, low: float, high: float) -> Column:
    return Column(name=name, dtype="number", measure="TWD", low=low, high=high)


COLUMNS = {
    "bank": (
        _money("LIMIT_BAL", 0, 800_000),
        *(_money(name, -50_000, 500_000) for name in BILLS),
        *(_money(name, 0, 100_000) for name in PAID),
    ),
    "bureau": tuple(Column(name=name, dtype="integer", measure="months of delay", low=-2, high=8) for name in DELAYS),
    "employer": (
        Column(name="SEX", dtype="category", categories=("1", "2"), sensitive=True),
        Column(name="EDUCATION", dtype="category", categories=tuple("0123456")),
        Column(name="MARRIAGE", dtype="category", categories=tuple("0123"), sensitive=True),
        Column(name="AGE", dtype="integer", measure="years", low=18, high=80),
    ),
}
TITLES = {"bank": "Bank", "bureau": "Credit bureau", "employer": "Employer"}


def _cut(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        name: frame[["ID", *(column.name for column in columns), *((LABEL,) if name == "bank" else ())]]
        .sample(frac=1, random_state=number)
        .reset_index(drop=True)
        for number, (name, columns) in enumerate(COLUMNS.items())
    }


def read(folder: Path) -> Mapping[str, pd.DataFrame]:
    """The public file as text."""
    return _cut(pd.read_csv(folder / "bank" / "default_credit" / "UCI_Credit_Card.csv", dtype=str))


def synthesise(generator: np.random.Generator, persons: int) -> Mapping[str, pd.DataFrame]:
    """Card holders: how tight money is decides delays, bills and default."""
    tight = generator.normal(0, 1, persons)
    limit = np.clip(np.exp(generator.normal(11.7 - 0.4 * tight, 0.7)), 10_000, 800_000).round(-4)
    columns: dict[str, object] = {"ID": np.arange(1, persons + 1), "LIMIT_BAL": limit}
    use = np.clip(generator.beta(1.2, 2, persons) + 0.15 * tight, 0, 1.1)
    for bill, paid, delay in zip(BILLS, PAID, DELAYS, strict=True):
        amount = (limit * use * generator.uniform(0.85, 1.1, persons)).round()
        columns[bill] = amount
        columns[paid] = np.clip(amount * generator.beta(1, 6, persons) - 500 * tight, 0, None).round()
        columns[delay] = np.clip(np.round(generator.normal(-0.3 + 0.9 * tight, 0.7)), -2, 8).astype(int)
    columns |= {
        "SEX": generator.choice(["1", "2"], persons, p=(0.4, 0.6)),
        "EDUCATION": generator.choice(["1", "2", "3"], persons, p=(0.35, 0.47, 0.18)),
        "MARRIAGE": generator.choice(["1", "2"], persons, p=(0.46, 0.54)),
        "AGE": np.clip(22 + generator.gamma(3, 4.5, persons), 21, 75).round().astype(int),
        LABEL: (generator.random(persons) < 1 / (1 + np.exp(1.7 - 1.1 * tight))).astype(int),
    }
    return _cut(pd.DataFrame(columns))


CASE = Case(
    name="cards",
    title="An employer, a credit bureau and a bank that know the same card holders",
    holdings=holdings_of(
        TITLES,
        COLUMNS,
        ids=("ID",),
        owner="bank",
        target=Target(name=LABEL, kind="binary", classes=("pays", "defaults"), mapping={"0": "pays", "1": "defaults"}),
    ),
    read=read,
    synthesise=synthesise,
    default_rows=4000,
)
