"""Makes rows for probes: synthetic, on the industry's schema, with a partition that is known in advance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clients import registry
from clients._checking import blank_to_none
from clients._groups import Grouping
from clients.dataset import RECORD, Table, assign, prepare
from clients.sources import parse_source, read
from consortia.terms.contract import Contract

#: Tables of a pool are cut from this many synthetic rows.
POOL_ROWS = 400
PARTS = ("train", "validation", "test")


class Pool:
    """Usable rows of one industry and site.

    The partition is computed here from the keyed hash that `clients.dataset.assign` states, not asked from the
    training path: that a row of another partition moves nothing is one of the laws.

    Attributes
    ----------
    frame : DataFrame
        Text, as a CSV file holds it; each row passes the schema and the contract's filter.
    table : Table
        The same rows, encoded, one unit a row.
    part : ndarray of str (n_rows,)
    """

    def __init__(self, industry: str, site: str, contract: Contract, key: bytes, folder: Path, seed: int) -> None:
        self.client = registry.get(industry)
        self.filter = contract.industries[industry].filter or None
        self.grouping = contract.of(industry).evaluation.grouping(industry)
        self.shares = {part: float(getattr(contract.split, part)) for part in PARTS}
        self.key = key
        self.folder = folder
        self._files = 0
        made = self.client.synthesise(np.random.default_rng(seed), POOL_ROWS, site)
        frame = read(parse_source(f"csv:{self.write(made)}"), self.client, site)
        good, _ = self.client.schema.check(frame, key=key)
        kept = good.index.to_numpy()
        if self.filter:
            kept = kept[self.client.filters[self.filter].rows(blank_to_none(frame)).to_numpy(bool)[kept]]
        self.frame = frame.iloc[kept].reset_index(drop=True)
        self.table = self.encode(self.frame, RECORD)
        self.part = assign(self.table.split_keys, key, self.shares)

    def write(self, frame: pd.DataFrame) -> Path:
        """Write a frame as a participant's CSV file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._files += 1
        path = self.folder / f"{self.client.name}-{self._files}.csv"
        frame.to_csv(path, index=False)
        return path

    def encode(
        self, frame: pd.DataFrame, unit: str, max_rows_per_unit: int | None = None, grouping: Grouping | None = None
    ) -> Table:
        """Encode a frame as a participant does; without `grouping` with the groups of the contract, if it has some."""
        return prepare(
            self.client,
            frame,
            unit=unit,
            max_rows_per_unit=max_rows_per_unit,
            filter=self.filter,
            grouping=grouping or self.grouping,
            key=self.key,
            quarantine_threshold=1.0,
            where="the audit",
        )

    def of(self, part: str) -> NDArray[np.int64]:
        """Positions of the rows of one partition, by record."""
        return np.flatnonzero(self.part == part)

    @property
    def unit_columns(self) -> tuple[str, ...]:
        """Columns that can be the privacy unit."""
        return tuple(c.name for c in self.client.schema.columns if c.identifier == "hash")

    def units_of(self, part: str, column: str, count: int) -> list[str]:
        """Names of units that the keyed hash puts into a partition."""
        names = [f"unit-{number}" for number in range(math.ceil(5 * count / self.shares[part]) + 64)]
        frame = self.frame.iloc[np.arange(len(names)) % len(self.frame)].reset_index(drop=True)
        frame[column] = names
        where = assign(self.encode(frame, column).split_keys, self.key, self.shares)
        return [name for name, it in zip(names, where, strict=True) if it == part][:count]

    def by_unit(self, column: str, units: Sequence[Sequence[int]], part: str = "train") -> pd.DataFrame:
        """Return a frame in which the i-th unit of a partition owns the rows at positions `units[i]`."""
        names = self.units_of(part, column, len(units))
        positions = [row for rows in units for row in rows]
        frame = self.frame.iloc[positions].reset_index(drop=True)
        frame[column] = [name for name, rows in zip(names, units, strict=True) for _ in rows]
        return frame
