"""A client whose rows have several labels: three findings of a chest X-ray's report, and two numbers that tell them."""

from __future__ import annotations

from typing import Final

from clients.industry import IndustryClient
from clients.invented import inventor
from clients.schema import Column, Schema, Target

__all__ = ["CLIENT", "SCHEMA", "TARGET"]

TARGET: Final = Target(
    name="findings", kind="multilabel", classes=("effusion", "nodule", "mass"), prior=(0.4, 0.3, 0.15)
)
SCHEMA: Final = Schema(
    name="findings",
    version=1,
    columns=(
        Column(name="age", dtype="number", low=0, high=100),
        Column(name="pressure", dtype="number", low=50, high=200, nullable=True),
    ),
    target=TARGET,
)
CLIENT: Final = IndustryClient(
    name="findings",
    title="Findings",
    schema=SCHEMA,
    read=lambda folder, site: None,  # type: ignore[arg-type, return-value]
    sites=("north", "south"),
    dataset="findings",
    synthesise=inventor(SCHEMA),
    metrics=("label_auc", "label_auprc", "label_accuracy", "label_brier"),
)
