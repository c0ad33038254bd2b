"""Measures the drift of a participant's rows since its last run: the population stability index of each column. It
stays at home.

The home keeps the counts of public cells (`consortia.learners.statistics.layout`) over all rows, for its owner only.
They are not released, and no release depends on them.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from clients import registry
from clients.industry import effective_schema
from consortia.common import disk
from consortia.common.errors import describe
from consortia.learners.statistics.layout import Layout, layout_of
from consortia.learners.sums.statistics import Rows
from consortia.participant.home import Home
from consortia.participant.partitions import Partitions

__all__ = ["STALE", "psi", "since_last_run"]

#: Above this index a model of the earlier rows is probably out of date (a common rule of thumb).
STALE: Final = 0.25
_BINS: Final = 10
#: Units added to each cell, so that the logarithm of an empty cell exists.
_PRIOR: Final = 0.5
_FEWEST: Final = 50
log = logging.getLogger("consortia.participant")

Array = NDArray[np.float64]


def psi(before: Array, now: Array) -> float:
    """Return the population stability index of two counts of the same cells. Half a unit is added to each cell.

    With few units the index is above 0 by chance, by about (cells - 1) (1/n + 1/m). This is subtracted.
    """
    shares = [(counts + _PRIOR) / (counts.sum() + _PRIOR * len(counts)) for counts in (before, now)]
    found = float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
    chance = (len(before) - 1) * (1 / max(1.0, before.sum()) + 1 / max(1.0, now.sum()))
    return float(max(0.0, found - chance))


def since_last_run(home: Home, dataset: str, industry: str, filter_name: str, parts: Partitions) -> dict[str, Any]:
    """Return the index of each column against the rows of the last run, and keep the new counts; {} the first time.

    If anything fails, only this line of the receipt is missing.
    """
    try:
        schema = effective_schema(registry.get(industry), filter=filter_name)
        layout = layout_of(schema, _BINS)
        now = _counts(layout, parts)
        file = home.kept / "drift" / f"{dataset}.json"
        layout_is = f"{schema.name} {schema.version} {filter_name} {layout.length}"
        before = _kept(file, layout_is)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        told = json.dumps({"layout": layout_is, "columns": {name: c.tolist() for name, c in now.items()}})
        disk.write_secret(file, told.encode())
        if before is None or min(sum(before[name]) for name in now) < _FEWEST:
            return {}
        found = {name: round(psi(np.array(before[name]), counts), 4) for name, counts in now.items()}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it depends on rows
        log.error("%s: no line about drift: %s", home.participant, describe(error))
        return {}
    stale = sorted((name for name, index in found.items() if index > STALE), key=lambda name: -found[name])
    return {"psi": found, "stale": stale}


def _kept(file: Path, layout_is: str) -> dict[str, list[float]] | None:
    if not file.is_file():
        return None
    kept = json.loads(file.read_text(encoding="utf-8"))
    columns: dict[str, list[float]] = kept["columns"]
    return columns if kept["layout"] == layout_is else None


def _counts(layout: Layout, parts: Partitions) -> dict[str, Array]:
    """Return the units of each column's cells over all rows, the target's classes among them."""
    vector = np.zeros(layout.length)
    for table in (parts.train, parts.validation, parts.test):
        if len(table):
            torch.set_num_threads(1)
            vector += layout.vector(Rows(table.inputs["features"], table.target, table.unit_index))
    out = {}
    for column in layout.stated:
        cells = vector[layout.slices[column.name, "cells"]].reshape(column.cells, layout.split_of(column))
        out[column.name] = cells.sum(axis=1)
    if layout.classes:
        first = layout.columns[0]
        out[layout.target] = vector[layout.slices[first.name, "cells"]].reshape(first.cells, -1).sum(axis=0)
    return out
