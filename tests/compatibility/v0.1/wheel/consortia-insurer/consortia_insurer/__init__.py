"""The industry insurer: say here what one row is, where the data come from, and under which license.

Public format: `insurer.csv` in the folder of the data set, one line per row, with the columns of the schema.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from clients.industry import IndustryClient
from clients.schema import Column, Schema, Target

SCHEMA = Schema(
    name="insurer",
    version=1,
    columns=(
        # Whose row it is: hashed with the participant's key, never a feature; may be the privacy unit.
        Column(name="customer_id", dtype="text", identifier="hash", nullable=True, required=False),
        # Public bounds, not those of your rows: values are clamped to them and scaled to [-1, 1].
        Column(name="age", dtype="number", measure="years", low=18, high=90, nullable=True),
        Column(name="amount", dtype="number", measure="EUR", low=0, high=5000),
        Column(name="kind", dtype="category", categories=("new", "renewed", "moved")),
    ),
    target=Target(name="claim", kind="binary", classes=("no", "yes"), mapping={"0": "no", "1": "yes"}),
)


def read(folder: Path, site: str) -> pd.DataFrame:
    """One site's file as text."""
    return pd.read_csv(folder / f"{site}.csv", dtype=str)


def synthesise(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
    """Rows on the same schema for trying things out; only `generator` may decide them."""
    age = generator.uniform(18, 90, rows).round()
    amount = generator.gamma(2.0, 600.0, rows).clip(0, 5000).round()
    kind = generator.choice(["new", "renewed", "moved"], rows, p=(0.3, 0.6, 0.1))
    shift = 0.4 if site == "north" else -0.2
    risk = shift - 0.04 * (age - 50) + 0.0012 * (amount - 1200) + 0.8 * (kind == "new") - 0.6
    claim = generator.random(rows) < 1 / (1 + np.exp(-risk))
    frame = pd.DataFrame({"age": age, "amount": amount, "kind": kind, "claim": claim.astype(int)})
    frame["customer_id"] = [f"synthetic-{n:09d}" for n in generator.integers(0, 10**9, rows)]
    frame["age"] = frame["age"].mask(generator.random(rows) < 0.05)
    return frame


CLIENT = IndustryClient(
    name="insurer",
    title="Insurer",
    schema=SCHEMA,
    read=read,
    sites=("north", "south"),
    dataset="insurer",
    synthesise=synthesise,
    metrics=("auc", "accuracy", "ece"),
)
