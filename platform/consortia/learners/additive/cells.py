"""Cells of binned columns: a function of the public schema, row by row. A row lies in one cell of each term.

A number in [-1, 1] is cut into cells of equal width, with one more for "missing" where the schema has that flag. A
category has a cell for each of its values, a flag two. A pair of numbers, fixed by the contract, is a grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.schema import Schema

__all__ = ["Cells", "Term", "cells_of"]

Array = NDArray[np.float64]
#: Kinds of features that lie in [-1, 1] and have an order.
_ORDERED: Final = frozenset({"number", "score"})


@dataclass(frozen=True)
class Term:
    """One column, or a pair of them.

    Attributes
    ----------
    name : of the column, or of both with " x " between them.
    features : positions: of a number and of its "missing" flag, of a one-hot, of a flag, of the numbers of a pair.
    kind : "number", "category", "flag" or "pair".
    bins : into how many cells a number is cut (each of a pair); 0 for others.
    missing : whether a number or flag has a cell for "missing", its last.
    rest : whether a one-hot may have no 1 at all: then its last cell.
    monotone : +1 where the shape may only rise, -1 fall, 0 either.
    """

    name: str
    features: tuple[int, ...]
    kind: str
    bins: int = 0
    missing: bool = False
    rest: bool = False
    monotone: int = 0

    @property
    def cells(self) -> int:
        """How many cells it has."""
        if self.kind == "pair":
            return self.bins**2
        plain = {"number": self.bins, "flag": 2, "category": len(self.features) + self.rest}[self.kind]
        return plain + self.missing

    def cell(self, features: Tensor) -> Tensor:
        """Return the cell of each row (n_rows,), whatever the features hold: exactly one, between 0 and cells - 1."""
        x = features[:, list(self.features)].double().nan_to_num(0.0)
        if self.kind == "category":
            top, place = x.max(dim=1)
            return torch.where(top > 0.5, place, len(self.features)) if self.rest else place
        if self.kind == "pair":
            first, second = (_cut(x[:, i], self.bins) for i in (0, 1))
            return first * self.bins + second
        found = (x[:, 0] > 0.5).long() if self.kind == "flag" else _cut(x[:, 0], self.bins)
        return torch.where(x[:, 1] > 0.5, self.cells - 1, found) if self.missing else found

    def roughness(self) -> Array:
        """Return the matrix (cells, cells) of the sum of squared differences between neighbouring cells."""
        out = np.zeros((self.cells, self.cells))
        if not self.bins:
            return out
        steps = np.diff(np.eye(self.bins), axis=0)
        path = steps.T @ steps
        if self.kind == "pair":
            return np.asarray(np.kron(path, np.eye(self.bins)) + np.kron(np.eye(self.bins), path))
        out[: self.bins, : self.bins] = path
        return out


def _cut(values: Tensor, bins: int) -> Tensor:
    return ((values.clamp(-1, 1) + 1) / 2 * bins).long().clamp(0, bins - 1)


@dataclass(frozen=True)
class Cells:
    """The terms of one industry and where the cells of each stand in one long vector."""

    terms: tuple[Term, ...]

    @property
    def size(self) -> int:
        """Number of cells in all."""
        return sum(term.cells for term in self.terms)

    @property
    def slices(self) -> list[slice]:
        """Return where the cells of each term stand."""
        ends = np.cumsum([0, *(term.cells for term in self.terms)]).tolist()
        return [slice(*pair) for pair in pairwise(ends)]

    def of(self, features: Tensor) -> Tensor:
        """Return the cells of each row (n_rows, n_terms) in the long vector; each row by itself."""
        starts = [place.start for place in self.slices]
        return torch.stack([start + t.cell(features) for start, t in zip(starts, self.terms, strict=True)], dim=1)


def cells_of(
    schema: Schema,
    bins: int,
    pair_bins: int,
    monotone: Mapping[str, str],
    pairs: Sequence[Sequence[str]],
) -> Cells:
    """Return the cells that a schema and a contract give.

    Raises
    ------
    ValueError
        Where a monotone column or one of a pair is no number that the model sees.
    """
    terms, places, start = [], {}, 0
    for name, kinds in schema.feature_groups:
        positions = tuple(range(start, start + len(kinds)))
        start += len(kinds)
        if kinds[0] in _ORDERED:
            places[name] = positions[0]
            way = {"up": 1, "down": -1}.get(monotone.get(name, ""), 0)
            terms.append(Term(name, positions, "number", bins, missing=len(kinds) > 1, monotone=way))
        elif kinds[0] == "category":
            terms.append(Term(name, positions, "category", rest=schema.drop_first))
        else:
            terms.append(Term(name, positions, "flag", missing=len(kinds) > 1))
    for name in (*monotone, *(name for pair in pairs for name in pair)):
        if name not in places:
            raise ValueError(f"numbers in monotone and pairs ({', '.join(places) or 'there is none'}), got {name!r}")
    for one, other in pairs:
        if one == other:
            raise ValueError(f"two columns in a pair, got {one!r} twice")
        terms.append(Term(f"{one} x {other}", (places[one], places[other]), "pair", pair_bins))
    return Cells(tuple(terms))
