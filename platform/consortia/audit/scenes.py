"""Inputs of the neighbour games: hostile units and rows, and models that a coordinator may send.

Everything follows from one seed, so that a game can be played again. Units have one row, many, or a mix of both; rows
are natural, or cancel within a unit (the same row with the other label), or repeat, or stand at the public bounds.
Models are as a run starts them, drawn at random, or made to amplify rounding: weights at the largest size that a
participant accepts, and layers whose halves are equal and cancel in the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.dataset import RECORD, assign
from consortia.audit.rows import PARTS, Pool
from consortia.terms.scopes import LARGEST, State

#: Models whose sums are counted a second time; with the others rounding is amplified, in the second count as well.
TAME = ("start", "small", "large", "tiny")
AMPLIFYING = ("twins", "flip")
HOSTILE = ("limit", *AMPLIFYING, "one huge")
_NATURAL = 48
_MOST = 40  # units of a partition


@dataclass(frozen=True)
class Units:
    """Rows of some units of one partition.

    Attributes
    ----------
    frame : DataFrame, as a CSV file holds it.
    owner : int (n_rows,), the unit of each row.
    """

    frame: pd.DataFrame
    owner: NDArray[np.int64]

    @property
    def count(self) -> int:
        """How many units there are."""
        return int(self.owner.max(initial=-1)) + 1

    def without(self, unit: int) -> pd.DataFrame:
        """Return the rows of all other units, in the same order."""
        rest: pd.DataFrame = self.frame[self.owner != unit]
        return rest


class Deck:
    """Rows of one pool, and their counterparts, to draw units from."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        natural = pool.frame.iloc[:_NATURAL]
        low, high = (_at_bounds(pool, natural.iloc[:8], side) for side in (0, 1))
        plain = pd.concat([natural, low, high], ignore_index=True)
        self.frame = pd.concat([plain, _other_label(pool, plain)], ignore_index=True)
        self.twin = np.concatenate([np.arange(len(plain)) + len(plain), np.arange(len(plain))])
        table = pool.encode(self.frame, RECORD)
        if len(table.split_keys) != len(self.frame):  # a row that breaks the schema would shift all others
            raise ValueError(f"the audit's rows of {pool.client.name}: wanted all of them whole")
        where = assign(table.split_keys, pool.key, pool.shares)
        self.rows = {part: np.flatnonzero(where == part) for part in PARTS}
        self._names: dict[tuple[str, str], list[str]] = {}

    def names(self, column: str, part: str) -> list[str]:
        """Return names of units that the keyed hash puts into a partition."""
        key = (column, part)
        if key not in self._names:
            self._names[key] = self.pool.units_of(part, column, _MOST)
        return self._names[key]

    def units(self, random: np.random.Generator, unit: str, part: str, most: int = 12) -> Units:
        """Draw units of a partition, at least one."""
        count = int(random.choice([1, 2, 3, most]))
        if unit == RECORD:
            rows = random.choice(self.rows[part], count)
            if random.random() < 0.3:
                rows = np.repeat(rows[:1], count)
            return Units(self.frame.iloc[rows].reset_index(drop=True), np.arange(count))
        sizes = _sizes(random, count)
        owner = np.repeat(np.arange(count), sizes)
        places = np.concatenate([self._unit_rows(random, int(size)) for size in sizes])
        frame = self.frame.iloc[places].reset_index(drop=True)
        frame[unit] = [self.names(unit, part)[one] for one in owner]
        if random.random() < 0.5:  # rows of a unit need not stand together
            order = random.permutation(len(owner))
            frame, owner = frame.iloc[order].reset_index(drop=True), owner[order]
        return Units(frame, owner)

    def _unit_rows(self, random: np.random.Generator, size: int) -> NDArray[np.int64]:
        kind = random.choice(["natural", "cancelling", "constant"])
        rows = random.integers(len(self.frame), size=size)
        if kind == "constant":
            rows[:] = rows[0]
        if kind == "cancelling":
            half = size // 2
            rows[half : 2 * half] = self.twin[rows[:half]]
        return rows

    def filler(self) -> pd.DataFrame:
        """Return a row of the test partition, by record: a source may not be empty."""
        return self.frame.iloc[self.rows["test"][:1]]


def _sizes(random: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Rows of each unit: all one, all alike, mixed, or one unit with many beside units of one."""
    kind = random.choice(["one", "alike", "mixed", "odd one"])
    if kind == "one":
        return np.ones(count, dtype=np.int64)
    if kind == "alike":
        return np.full(count, int(random.integers(2, 9)))
    sizes = random.integers(1, 9, count)
    if kind == "odd one":
        sizes[:-1] = 1
        sizes[-1] = int(random.integers(2, 18))
    return sizes


def _at_bounds(pool: Pool, frame: pd.DataFrame, side: int) -> pd.DataFrame:
    """Return rows whose numbers stand at their lower or upper public bound."""
    frame = frame.copy()
    for column in pool.client.schema.columns:
        bounds = (column.low, column.high)
        if column.name in frame and column.dtype in {"number", "integer"} and None not in bounds and column.is_feature:
            value = bounds[side]
            frame[column.name] = str(int(value)) if column.dtype == "integer" and value is not None else str(value)
    return frame


def _other_label(pool: Pool, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the same rows with another label each."""
    name = pool.client.schema.target.name
    known = sorted(pool.frame[name].unique())
    frame = frame.copy()
    if pool.client.schema.target.kind == "regression":
        ends = sorted(known, key=float)
        frame[name] = [ends[0] if float(value) > float(ends[len(ends) // 2]) else ends[-1] for value in frame[name]]
    else:
        frame[name] = [known[(known.index(value) + 1) % len(known)] for value in frame[name]]
    return frame


def model_of(kind: str, start: Mapping[str, Tensor], random: np.random.Generator) -> State:
    """Return shared parameters of a kind of `TAME` or `HOSTILE`, every one of a size that a participant accepts."""
    state = {name: tensor.clone() for name, tensor in start.items()}
    real = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    scale = {"small": 0.3, "large": 10.0, "tiny": 1e-40, "one huge": 1.0}.get(kind)
    for tensor in real.values():
        if scale is not None:
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * scale)
        elif kind == "limit":
            tensor.copy_(torch.randn(tensor.shape, generator=generator).sign() * LARGEST)
    if kind == "one huge":
        tensor = list(real.values())[int(random.integers(len(real)))]
        tensor.view(-1)[int(random.integers(tensor.numel()))] = LARGEST
    if kind in AMPLIFYING:
        _cancel(real, generator, rows_alike=kind == "twins")
    return state


def _cancel(real: Mapping[str, Tensor], generator: torch.Generator, *, rows_alike: bool) -> None:
    """Make both halves of the first layer equal, and let the next ones subtract them at the largest size.

    In exact arithmetic what comes out is zero; rounding is all that is left, a million times larger in every layer.
    """
    layers = [name.removesuffix(".weight") for name, tensor in real.items() if tensor.dim() == 2]
    for place, name in enumerate(layers):
        weight, bias = real[f"{name}.weight"], real.get(f"{name}.bias")
        if place == 0:
            half = weight.shape[0] // 2
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
            weight[half : 2 * half] = weight[:half]
            if bias is not None:
                bias.copy_(torch.randn(bias.shape, generator=generator) * 0.3)
                bias[half : 2 * half] = bias[:half]
            continue
        half = weight.shape[1] // 2
        size = (torch.rand(weight.shape, generator=generator) * 0.5 + 0.5) * LARGEST
        size = size * torch.randn(weight.shape, generator=generator).sign()
        if rows_alike:
            size = size[:1].expand_as(size).clone()
        weight.copy_(torch.full_like(size, LARGEST) if place > 1 and rows_alike else size)
        if place == 1 or not rows_alike:
            weight[:, half : 2 * half] = -weight[:, :half]
        if bias is not None:
            bias.zero_()


#: Networks of every kind, beside the scenario's own.
MODELS: tuple[dict[str, Any], ...] = (
    {"kind": "linear"},
    {"kind": "mlp", "hidden": [8]},
    {"kind": "mlp", "hidden": [6, 4]},
    {"kind": "mlp", "hidden": [16], "norm": "layer"},
    {"kind": "mlp", "hidden": [5, 3], "norm": "layer"},
    {"kind": "mlp", "hidden": [32, 16]},
    {"kind": "mlp", "hidden": [16, 16, 16]},
)
#: Widths with which an amplifying model makes a sign of rounding.
DEEP = ((16, 16, 16), (32, 16), (64, 64, 64))
