"""Draws labels that are independent of the rows, from the schema's public prior."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from clients.dataset import Table
from clients.errors import SchemaError
from clients.schema import Target
from privacy.randomness import numpy_generator


def with_placebo_labels(table: Table, target: Target, participant: str, seed: int) -> Table:
    """Return the same rows with labels drawn i.i.d. from `target.prior`, or evenly from the classes or bounds.

    Of several labels each is drawn by itself.

    The table's own labels have no influence, not even their base rate.

    Raises
    ------
    SchemaError
        A regression target has no bounds, so there is no public distribution to draw from.
    """
    rng = numpy_generator("placebo", participant, seed)
    n = len(table.target)
    if target.kind == "regression":
        if target.low is None or target.high is None:
            raise SchemaError(f"target {target.name!r}: wanted public bounds to draw placebo labels from, got none")
        drawn = torch.from_numpy(rng.uniform(target.low, target.high, n))
    elif target.kind == "multilabel":
        there = rng.random((n, target.outputs)) < np.array(target.prior or 0.5)
        drawn = torch.from_numpy(there @ (1 << np.arange(target.outputs)))
    else:
        drawn = torch.from_numpy(rng.choice(len(target.classes), size=n, p=target.prior or None))
    return dataclasses.replace(table, target=drawn.to(table.target.dtype))
