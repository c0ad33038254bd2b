"""From released sums to a model, in closed form: for everybody (`everybodys`), and at home with own rows (`AtHome`).

Nothing here is charged: what uses only released sums and public constants is post-processing, and what uses one's own
rows stays at home.

The model of the numbers. Weights w ~ N(0, (c / 10) I) in each direction of the target, with c the public variance of a
row's deviation; the intercept's prior is a thousand times wider. Released products are ``b = A (w + u) + e`` with the
noisy Gram matrix A, noise ``e ~ N(0, s^2 I + c A)`` and ``u ~ N(0, v I)``, which is what differs between participants.
Own rows are exact. v is averaged over {0, .03} by ``exp(-squared error)`` on own rows held out in three folds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consortia.learners.sums.outcome import Outcome

__all__ = ["DRIFT", "FOLDS", "STRENGTH", "AtHome", "Own", "Released", "centre_and_radius", "everybodys", "operators"]

Array = NDArray[np.float64]
#: Precision of a weight over that of a row's deviation.
STRENGTH: Final = 10.0
#: Variances of what differs between participants.
DRIFT: Final = (0.0, 0.03)
FOLDS: Final = 3
_INTERCEPT: Final = 1e-3
_TINY: Final = 1e-9


@dataclass(frozen=True)
class Released:
    """Sums over participants, as they were released.

    Attributes
    ----------
    gram : float64 (size, size)
        Symmetric; noise of `gram_deviation` on the diagonal and 1/sqrt(2) of it beside it.
    slope : float64 (size, directions)
        Noise of `slope_deviation` in each number.
    units : float
        Public number of units in the sums, each times its weight.
    """

    gram: Array
    slope: Array
    gram_deviation: float
    slope_deviation: float
    units: float

    def less(self, other: Released) -> Released:
        """Return these sums without those of `other`, which are among them, noise and all."""

        def left(mine: float, others: float) -> float:
            return math.sqrt(max(0.0, mine**2 - others**2))

        return Released(
            self.gram - other.gram,
            self.slope - other.slope,
            left(self.gram_deviation, other.gram_deviation),
            left(self.slope_deviation, other.slope_deviation),
            max(0.0, self.units - other.units),
        )


def centre_and_radius(sums: Array, units: float, squared: NDArray[np.bool_], largest: float) -> tuple[Array, float]:
    """Return the common centre (width,) and radius of message 2 from the released message 1.

    ``R^2 = 1.15 x (sum of the variances) + .25``, R at most `largest`. Noisy variances are floored at 0; that of a 0/1
    column of mean m is m (1 - m).

    Parameters
    ----------
    sums : float64 (first_size,)
        Noisy sums of the columns, then of the squares of the columns in `squared`.
    """
    width = len(squared)
    means = np.clip(sums[:width] / max(units, 1.0), np.where(squared, -1.0, 0.0), 1.0)
    variances = means * (1 - means)
    variances[squared] = np.clip(sums[width:] / max(units, 1.0) - means[squared] ** 2, 0.0, 1.0)
    return means, min(math.sqrt(1.15 * float(variances.sum()) + 0.25), largest)


def everybodys(
    released: Released,
    outcome: Outcome,
    strength: float = STRENGTH,
    columns: NDArray[np.bool_] | None = None,
) -> Array:
    """Return the weights (size, directions) of the model that anybody can have: released sums and constants alone.

    Parameters
    ----------
    columns : bool (size,), optional
        Which may have a weight; the others get 0.
    """
    chosen = np.ones(len(released.gram), dtype=bool) if columns is None else columns
    values, vectors = np.linalg.eigh(released.gram[np.ix_(chosen, chosen)])
    values = np.maximum(values, 0.0)
    prior = _prior(len(values), strength)
    weights = np.zeros_like(released.slope)
    for direction, c in enumerate(outcome.variances):
        rotated = vectors.T @ released.slope[chosen, direction]
        gram, product = _evidence(values, vectors, rotated, released.slope_deviation, c, 0.0)
        weights[chosen, direction] = np.linalg.solve(gram + np.diag(prior / c), product)
    return weights


def operators(released: Released, outcome: Outcome) -> Array:
    """Return K (directions, size, size) with which `everybodys` of all columns is ``w = K b``, b being the slope."""
    values, vectors = np.linalg.eigh(released.gram)
    values = np.maximum(values, 0.0)
    prior = _prior(len(values), STRENGTH)
    found = []
    for c in outcome.variances:
        weight = 1 / (released.slope_deviation**2 + c * values + _TINY)
        gram = (vectors * (weight * values**2)) @ vectors.T + np.diag(prior / c)
        found.append(np.linalg.solve(gram, (vectors * (weight * values)) @ vectors.T))
    return np.stack(found)


def _prior(size: int, strength: float) -> Array:
    """Return the precision of each weight, over that of a row's deviation; the first is the intercept's."""
    prior = np.full(size, strength)
    prior[0] *= _INTERCEPT
    return prior


def _evidence(
    values: Array, vectors: Array, rotated: Array, deviation: float, c: float, drift: float
) -> tuple[Array, Array]:
    """Return the precision (size, size) and the precision-weighted mean (size,) that released sums give w.

    Parameters
    ----------
    values, vectors : of the Gram matrix A.
    rotated : the products with the target in its eigenvectors' coordinates.
    """
    weight = 1 / (deviation**2 + c * values + drift * values**2 + _TINY)
    return (vectors * (weight * values**2)) @ vectors.T, vectors @ (weight * values * rotated)


@dataclass(frozen=True)
class Own:
    """One's own training rows as the learner sees them; they stay at home.

    Attributes
    ----------
    rows : float64 (n_rows, size)
        As in message 2, each times the root of its share in its unit.
    deviations : float64 (n_rows, directions)
        Likewise.
    units : int (n_rows,)
        Of each row.
    """

    rows: Array
    deviations: Array
    units: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Number of units."""
        return len(np.unique(self.units))

    def take(self, chosen: NDArray[np.bool_]) -> Own:
        """Return these rows."""
        return Own(self.rows[chosen], self.deviations[chosen], self.units[chosen])


class AtHome:
    """The posterior mean given the others' released sums and one's own rows.

    **It saw own rows without noise: neither it nor its scores leave.**

    Parameters
    ----------
    others : sums of the other participants: what was released less one's own contribution exactly as it was sent.
    outcome : the target.
    """

    def __init__(self, others: Released, outcome: Outcome) -> None:
        self.others = others
        self.outcome = outcome

    def weights(self, own: Own, fold_of_unit: Callable[[int], NDArray[np.int64]]) -> tuple[Array, Array]:
        """Return the weights (size, directions), and the values of own rows by models that did not see their unit.

        Parameters
        ----------
        fold_of_unit : number of units -> a fold for each of them, from 0 to `FOLDS` - 1.

        Returns
        -------
        float64 (size, directions)
        float64 (n_rows, directions)
            Of one's own rows, each out of its fold: on the scale of `Own.rows`, so times the root of a row's share.
        """
        variances = self._variances(own)
        paths = [self._paths(own, direction, c) for direction, c in enumerate(variances)]
        whole = self._solved(own, paths)
        held = np.zeros((len(DRIFT), *own.deviations.shape))
        _, unit = np.unique(own.units, return_inverse=True)
        fold = fold_of_unit(own.count)[unit] if len(unit) else unit
        for number in range(FOLDS):
            out = fold == number
            held[:, out] = own.rows[out] @ self._solved(own.take(~out), paths)
        errors = np.square(held - own.deviations).sum(axis=(1, 2))
        odds = np.exp(-(errors - errors.min()) * len(own.rows) / (2 * max(float(errors.min()), _TINY)))
        odds /= odds.sum()
        return np.tensordot(odds, whole, 1), np.tensordot(odds, held, 1)

    def _variances(self, own: Own) -> tuple[float, ...]:
        """Return c: the public one, or a regression's residual variance as one's own rows show it (at home)."""
        if self.outcome.kind != "regression" or own.count < 2 * own.rows.shape[1] ** 0.5:
            return self.outcome.variances
        size = own.rows.shape[1]
        gram = own.rows.T @ own.rows + np.diag(_prior(size, STRENGTH))
        left = own.deviations - own.rows @ np.linalg.solve(gram, own.rows.T @ own.deviations)
        used = float(np.trace(np.linalg.solve(gram, own.rows.T @ own.rows)))
        return (max(float(np.square(left).sum()) / max(own.count - used, 1.0), 1e-4),)

    def _paths(self, own: Own, direction: int, c: float) -> list[tuple[Array, Array]]:
        """Return what the others' sums say of one direction, for each drift: precision, weighted mean, over c."""
        others, size = self.others, own.rows.shape[1]
        if others.units <= 0:
            return [(np.diag(_prior(size, STRENGTH)), np.zeros(size))] * len(DRIFT)
        values, vectors = np.linalg.eigh(self._gram(own) * others.units)
        values = np.maximum(values, 0.0)
        rotated = vectors.T @ others.slope[:, direction]
        found = []
        for drift in DRIFT:
            gram, product = _evidence(values, vectors, rotated, others.slope_deviation, c, drift)
            found.append((gram * c + np.diag(_prior(size, STRENGTH)), product * c))
        return found

    def _gram(self, own: Own) -> Array:
        """Return the others' Gram matrix a unit: the noisy one's positive part, mixed with the own by precision."""
        others, size = self.others, own.rows.shape[1]
        values, vectors = np.linalg.eigh(others.gram)
        noisy = (vectors * np.maximum(values, 0.0)) @ vectors.T / others.units
        if not own.count:
            return np.asarray(noisy)
        mine = own.rows.T @ own.rows / own.count
        of_own = float(np.trace(mine)) ** 2 / size**2 / own.count
        of_noise = (others.gram_deviation / others.units) ** 2 / 2
        share = of_own / (of_own + of_noise) if of_own + of_noise > 0 else 1.0
        return np.asarray(share * noisy + (1 - share) * mine)

    @staticmethod
    def _solved(own: Own, paths: list[list[tuple[Array, Array]]]) -> Array:
        """Return the weights (drifts, size, directions)."""
        gram, slope = own.rows.T @ own.rows, own.rows.T @ own.deviations

        def solved(drift: int) -> Array:
            both = zip((path[drift] for path in paths), slope.T, strict=True)
            return np.column_stack([np.linalg.solve(gram + g, own_slope + b) for (g, b), own_slope in both])

        return np.stack([solved(drift) for drift in range(len(DRIFT))])
