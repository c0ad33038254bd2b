"""Defines a mechanism: it bounds what one unit does, randomises, and names its event.

`consortia.testing.check_mechanism` holds an object of this shape to what it declares. How to write one:
`docs/how_to/mechanisms.md`.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PlanError
from privacy.events import Event

__all__ = ["AdditiveNoise", "Data", "Mechanism", "NoiseLaw", "Norm", "Response", "Rounded"]

Array = NDArray[np.float64]
#: How the distance of two exact results is measured: sum, Euclidean length, or number of coordinates that differ.
Norm = Literal["l1", "l2", "l0"]
_TAIL: Final = 1e-12
_POINTS: Final = 40_001


@dataclass(frozen=True)
class Data:
    """Rows of some units, as a mechanism reads them.

    Attributes
    ----------
    values : float64 (n_rows, n_columns)
        Any numbers, not finite ones too. Where a label is what changes (`change_one_label`), it is the last column.
    units : int64 (n_rows,)
        The unit of each row.
    """

    values: Array
    units: NDArray[np.int64]


class NoiseLaw(Protocol):
    """What a release's coordinates look like, each independent of the others, given the exact result."""

    def uniforms(self, released: Array, exact: Array, random: np.random.Generator) -> Array:
        """Return numbers that are uniform in (0, 1) if and only if `released` follows the law, in the shape given."""

    def pair(self, distance: float) -> tuple[Array, Array]:
        """Return log probabilities (n_outcomes,) of one release, with and without a move by `distance`."""


@dataclass(frozen=True)
class AdditiveNoise:
    """Independent noise added to each coordinate.

    Attributes
    ----------
    distribution : a frozen distribution of `scipy.stats`, or `Rounded`
        In the units of the result. A discrete one takes whole numbers.
    """

    distribution: Any

    @property
    def discrete(self) -> bool:
        """Whether the noise takes whole numbers only."""
        return hasattr(self.distribution, "logpmf")

    def uniforms(self, released: Array, exact: Array, random: np.random.Generator) -> Array:
        """Return the distribution function of what was added; a whole number is spread over its step by `random`."""
        added = np.asarray(released, dtype=np.float64) - exact
        if not self.discrete:
            return np.asarray(self.distribution.cdf(added), dtype=np.float64)
        low, high = self.distribution.cdf(added - 1), self.distribution.cdf(added)
        spread = low + random.random(added.shape) * (high - low)
        return np.where(added == np.round(added), spread, np.nan)  # off the grid, which no noise can be

    def pair(self, distance: float) -> tuple[Array, Array]:
        """Return both laws on a grid that holds all but 1e-12 of them."""
        noise = self.distribution
        reach = max(abs(float(noise.isf(_TAIL))), abs(float(noise.ppf(_TAIL)))) + 10 * distance
        if self.discrete:
            reach = math.ceil(reach)
            places = np.arange(-reach, reach + 1, dtype=np.float64)
            return noise.logpmf(places - math.ceil(distance)), noise.logpmf(places)
        places = np.linspace(-reach, reach, _POINTS)
        width = math.log(places[1] - places[0])
        return noise.logpdf(places - distance) + width, noise.logpdf(places) + width


@dataclass(frozen=True)
class Rounded:
    """A continuous distribution of `scipy.stats`, symmetric about 0, rounded to whole numbers."""

    distribution: Any

    def cdf(self, number: Array) -> Array:
        """Return the probability of at most `number`, which is whole."""
        return np.asarray(self.distribution.cdf(np.asarray(number) + 0.5))

    def logpmf(self, number: Array) -> Array:
        """Return the log probability of a whole number; from the lower tail, where small numbers are exact."""
        below = -np.abs(np.asarray(number))
        mass = self.distribution.cdf(below + 0.5) - self.distribution.cdf(below - 0.5)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(mass))

    def isf(self, probability: float) -> float:
        """Return what is exceeded with this probability."""
        return float(np.ceil(self.distribution.isf(probability)))

    def ppf(self, probability: float) -> float:
        """Return what is not exceeded with this probability."""
        return float(np.floor(self.distribution.ppf(probability)))


@dataclass(frozen=True)
class Response:
    """Each coordinate is a whole number 0..k-1, and is replaced by one drawn for it.

    Attributes
    ----------
    probabilities : float64 (k, k)
        Of each output (column) for each value (row).
    """

    probabilities: Array

    def __post_init__(self) -> None:
        table = np.asarray(self.probabilities)
        square = table.ndim == 2 and table.shape[0] == table.shape[1] >= 2
        if not square or (table < 0).any() or not np.allclose(table.sum(axis=1), 1):
            raise PlanError(f"probabilities: wanted rows that sum to 1, one for each value, got shape {table.shape}")

    def uniforms(self, released: Array, exact: Array, random: np.random.Generator) -> Array:
        """Return the distribution function of each output under the law of its value, spread by `random`."""
        above = np.cumsum(self.probabilities, axis=1)
        value, output = np.broadcast_arrays(np.asarray(exact).astype(int), np.asarray(released))
        inside = np.isin(output, np.arange(len(above)))
        output = np.where(inside, output, 0).astype(int)
        high, mass = above[value, output], np.asarray(self.probabilities)[value, output]
        return np.where(inside, high - random.random(output.shape) * mass, np.nan)

    def pair(self, distance: float) -> tuple[Array, Array]:
        """Return the laws of the two values that differ most, for `distance` coordinates at once."""
        with np.errstate(divide="ignore"):
            logs = np.log(np.asarray(self.probabilities))
        rows = [(one, other) for one in logs for other in logs if one is not other]
        with np.errstate(invalid="ignore"):
            one, other = max(rows, key=lambda pair: float(np.nanmax(pair[0] - pair[1])))
        moved, still = one, other
        for _ in range(round(distance) - 1):
            moved, still = np.add.outer(moved, one).ravel(), np.add.outer(still, other).ravel()
        return moved, still


class Mechanism(Protocol):
    """One release: an exact result of bounded sensitivity, and its randomised form.

    Attributes
    ----------
    sensitivity, norm : how far one unit moves `query` at most, under the relation of the event.
    sampling_rate : with which probability each unit takes part in a release; 1 without Poisson sampling.
    noise : the law of a release, given the exact result of the units that take part.
    """

    @property
    def sensitivity(self) -> float: ...

    @property
    def norm(self) -> Norm: ...

    @property
    def sampling_rate(self) -> float: ...

    @property
    def noise(self) -> NoiseLaw: ...

    def event(self) -> Event:
        """Return what one release costs."""

    def query(self, data: Data) -> Array:
        """Return the exact result of all units (n_numbers,): bounded for any rows, never refused, never random."""

    def release(self, data: Data) -> Array:
        """Return a randomised result (n_numbers,) in the units of `query`, with fresh randomness every time."""

    def example(self, seed: int) -> Data:
        """Return rows of at least 8 units, the same for the same seed."""
