"""Shared parts of the mechanism checks: hostile rows, neighbours, distances, releases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from privacy.events import CHANGE_LABEL, RELATION, Event
from privacy.mechanism import Array, Data, Mechanism

#: Numbers of one release after another, until there are so many; and how many releases at least and at most.
_NUMBERS = 20_000
_LEAST, _MOST = 200, 4000
_BIG = (1e3, 1e30, 1e308)
_BAD = (np.nan, np.inf, -np.inf)


@dataclass
class Case:
    """A mechanism under test."""

    mechanism: Mechanism
    seed: int
    _exact: dict[int, tuple[Data, Array]] = field(default_factory=dict)

    def exact(self, data: Data) -> Array:
        """Return the exact result of these rows, asked for once."""
        if id(data) not in self._exact:
            with np.errstate(all="ignore"):  # a mechanism may meet infinities on its way; only the result counts
                self._exact[id(data)] = data, np.asarray(self.mechanism.query(data), dtype=np.float64)
        return self._exact[id(data)][1]

    @cached_property
    def random(self) -> np.random.Generator:
        """Randomness of the checks themselves; a mechanism has its own."""
        return np.random.default_rng(self.seed)

    @cached_property
    def event(self) -> Event:
        """What one release costs."""
        return self.mechanism.event()

    @cached_property
    def data(self) -> Data:
        """The mechanism's own example."""
        return self.mechanism.example(self.seed)

    @cached_property
    def empty(self) -> Data:
        """No rows."""
        return Data(self.data.values[:0], self.data.units[:0])

    @property
    def adds_units(self) -> bool:
        """Whether neighbours differ in the presence of a unit; otherwise the number of rows is fixed and public."""
        return self.event.relation == RELATION

    def distance(self, one: Array, other: Array) -> float:
        """Return how far two exact results are from one another, in the mechanism's own norm."""
        step = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
        if self.mechanism.norm == "l0":
            return float(np.count_nonzero(step))
        return float(np.abs(step).sum() if self.mechanism.norm == "l1" else np.linalg.norm(step))

    def hostile(self) -> Iterator[tuple[str, Array]]:
        """Rows (n, n_columns) that one unit may bring, whatever the schema promises."""
        honest = self.data.values[self.data.units == self.data.units[0]]
        yield "its own rows", honest
        yield "its rows 40 times", np.tile(honest, (40, 1))
        yield "rows that cancel", np.concatenate([honest, -honest])
        yield "rows of zero", np.zeros_like(honest)
        for size in _BIG:
            yield f"values of {size:g}", np.full_like(honest, size)
            yield f"values of {-size:g} and {size:g}", np.tile(np.sign(honest + 0.5) * size, (3, 1))
        yield "tiny values", honest * 1e-300
        for bad in _BAD:
            yield f"rows of {bad}", np.full_like(honest, bad)
            for column in sorted({0, honest.shape[1] // 2, honest.shape[1] - 1}):
                rows = np.tile(honest, (2, 1))
                rows[0, column] = bad
                yield f"one {bad} in column {column}", rows

    def neighbours(self) -> Iterator[tuple[str, Data, Data]]:
        """Pairs that differ in one unit: by its presence, in one row, or in one label."""
        yield from self._with_and_without() if self.adds_units else self._replaced()

    def _with_and_without(self) -> Iterator[tuple[str, Data, Data]]:
        data = self.data
        for unit in np.unique(data.units)[:20]:
            yield f"without unit {unit}", data, _take(data, data.units != unit)
        crowd = _take(data, data.units != data.units[0])
        guest = int(data.units.max()) + 1
        for what, rows in self.hostile():
            for where, others in (("alone", self.empty), ("among others", crowd)):
                mine = Data(rows, np.full(len(rows), guest, dtype=np.int64))
                yield f"{what}, {where}", _joined(others, mine), others
                # Its rows may stand before the others' or between them.
                yield f"{what}, {where}, first", _joined(mine, others), others
            # Not only the hostile unit may move the result by too much: so may another one beside it.
            both = _joined(crowd, mine)
            yield f"another unit beside one with {what}", both, _take(both, both.units != crowd.units[0])

    def _replaced(self) -> Iterator[tuple[str, Data, Data]]:
        data, only = self.data, self.event.relation == CHANGE_LABEL
        rows = [(what, row) for what, some in self.hostile() for row in (some[0], some[-1])]
        rows += [("another row", row) for row in data.values[:20]]
        for number, (what, row) in enumerate(rows):
            place = (0, len(data.values) // 2)[number % 2]
            for base in (data, Data(np.resize(row, data.values.shape), data.units)):
                values = base.values.copy()
                if only:
                    values[place, -1] = row[-1]
                else:
                    values[place] = row
                other = values.copy()
                other[place, -1:] = -row[-1:]
                yield f"{what} in the place of another", base, Data(values, base.units)
                yield f"{what} against its opposite", Data(values, base.units), Data(other, base.units)

    @cached_property
    def base(self) -> Data:
        """Rows on which a release is the exact result plus noise, whoever takes part: none, where units are drawn."""
        return self.data if self.mechanism.sampling_rate == 1 else self.empty

    @cached_property
    def uniforms(self) -> Array:
        """Releases (n_releases, n_numbers) of the same rows, as numbers that the declared law makes uniform."""
        exact = self.exact(self.base)
        count = int(np.clip(np.ceil(_NUMBERS / max(1, exact.size)), _LEAST, _MOST))
        count = min(count, max(_LEAST // 10, 40 * _NUMBERS // max(1, exact.size)))
        drawn = np.stack([np.asarray(self.mechanism.release(self.base), dtype=np.float64) for _ in range(count)])
        return self.mechanism.noise.uniforms(drawn, exact, self.random)

    @property
    def scores(self) -> Array:
        """The same as standard normal numbers."""
        return normal_scores(self.uniforms)

    @cached_property
    def pairs(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Log probabilities (n_outcomes,) of two worst neighbours under the declared law, both ways round."""
        moved, still = self.mechanism.noise.pair(self.mechanism.sensitivity)
        rate = self.mechanism.sampling_rate
        if rate < 1:
            moved = np.logaddexp(np.log(rate) + moved, np.log1p(-rate) + still)
        return (moved, still), (still, moved)


def normal_scores(uniforms: Array) -> Array:
    """Return uniform numbers as standard normal ones."""
    edge = np.finfo(np.float64).tiny
    return np.asarray(ndtri(np.clip(uniforms, edge, 1 - 2**-53)))


def _take(data: Data, rows: NDArray[np.bool_]) -> Data:
    return Data(data.values[rows], data.units[rows])


def _joined(one: Data, other: Data) -> Data:
    return Data(np.concatenate([one.values, other.values]), np.concatenate([one.units, other.units]))
