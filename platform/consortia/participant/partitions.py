"""A participant's rows as a run divides them."""

from __future__ import annotations

from dataclasses import dataclass

from clients.dataset import QuarantineReport, Table


@dataclass(frozen=True)
class Partitions:
    """A participant's rows for training, choosing and reporting. `bias` describes how quarantined rows differ."""

    train: Table
    validation: Table
    test: Table
    quarantine: QuarantineReport
    synthetic: bool
    conditional_on_split: bool
    bias: tuple[str, ...] = ()
