"""An order system, a machine and a building's climate control that know the same runs: a column cut of UCI AI4I
2020."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from clients import factory
from clients._pandas import pd
from clients.factory import AIR, PROCESS, SPEED, TORQUE, WEAR
from clients.holdings import Case, holdings_of

__all__ = ["CASE"]

CUTS = {"orders": ("Type", WEAR), "machine": (SPEED, TORQUE), "climate": (AIR, PROCESS)}
TITLES = {"orders": "Order system", "machine": "Machine", "climate": "Building climate"}
LABEL = "Machine failure"
# The type of product names the site in clients/factory.py; here it is a feature of the order.
_BY_NAME = {column.name: replace(column, feature=True) for column in factory.SCHEMA.columns}


def _cut(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        name: frame[["UDI", *columns, *((LABEL,) if name == "orders" else ())]]
        .sample(frac=1, random_state=number)
        .reset_index(drop=True)
        for number, (name, columns) in enumerate(CUTS.items())
    }


def read(folder: Path) -> Mapping[str, pd.DataFrame]:
    """The public file as text; the columns that give the label away are never used."""
    file = folder / "factory" / "ai4i2020" / "ai4i2020.csv"
    return _cut(pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig"))


def synthesise(generator: np.random.Generator, persons: int) -> Mapping[str, pd.DataFrame]:
    """Runs of machines of product type L."""
    frame = factory.synthesise(generator, persons, "L")
    return _cut(frame.assign(UDI=range(1, persons + 1)))


CASE = Case(
    name="machines",
    title="An order system, a machine and a building's climate control that know the same runs",
    holdings=holdings_of(
        TITLES,
        {name: tuple(_BY_NAME[column] for column in columns) for name, columns in CUTS.items()},
        ids=("UDI",),
        owner="orders",
        target=factory.SCHEMA.target,
    ),
    read=read,
    synthesise=synthesise,
    default_rows=4000,
)
