"""A line, y = 3x + 2 with noise: the smallest industry, and a check that learning works.

The public format is one file per site, `<site>.csv`, with the columns x and y.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clients._pandas import pd
from clients.industry import IndustryClient
from clients.schema import Column, Schema, Target

__all__ = ["CLIENT", "SCHEMA"]

SLOPE, INTERCEPT, NOISE = 3.0, 2.0, 0.1

SCHEMA = Schema(
    name="linear",
    version=1,
    # The bounds are [-1, 1], so that scaling changes nothing and the weight is the slope itself.
    columns=(Column(name="x", dtype="number", low=-1, high=1),),
    target=Target(name="y", kind="regression"),
)

# The sites see different parts of the line: each alone has the same slope, with its own x.
RANGES = {"a": (-1.0, 0.4), "b": (-0.4, 1.0)}


def read(folder: Path, site: str) -> pd.DataFrame:
    """The site's file as text."""
    return pd.read_csv(folder / f"{site}.csv", dtype=str)


def synthesise(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
    """Points of the line."""
    x = generator.uniform(*RANGES[site], size=rows)
    return pd.DataFrame({"x": x, "y": SLOPE * x + INTERCEPT + generator.normal(0, NOISE, rows)})


CLIENT = IndustryClient(
    name="linear",
    title="Line",
    schema=SCHEMA,
    read=read,
    sites=tuple(RANGES),
    dataset="line",
    synthesise=synthesise,
    metrics=("rmse", "mae", "r2"),
    default_rows=200,
)
