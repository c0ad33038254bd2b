"""What each column of the schema adds to a value of the model, and what noise alone could add. All of it is free.

The model's value is ``z(x) . w`` with z from `Columns.encode`. A row's value falls into parts, one for each schema
column, and a rest that no column changes. The parts are Shapley values against rows whose columns are independent and
have the released means m: a column's own parts count from their mean, and a product of two numbers gives
``.5 (x_i - m_i) (x_k + m_k)`` to the first and the mirror image to the second. They are linear in z and in w, so each
part is ``z' T w`` with a matrix T, and the matrices of all parts sum to 1.

Noise. `redrawn` adds the release's noise, and the scatter of rows, to the released sums again and solves again. The
spread of a part over the rows, ``|T w|_G = sqrt(w' T' G T w)`` with G the released second moments, is a seminorm. So
the spread of the noise-free weights w0 lies within ``|T (w - w0)|_G`` of the one that is shown. `margins` bounds that
for all columns together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consortia.learners.sums.columns import Columns
from consortia.learners.sums.outcome import Outcome
from consortia.learners.sums.solution import Released, everybodys

__all__ = ["DRAWS", "LEVEL", "margins", "moments", "parts", "redrawn", "spreads"]

Array = NDArray[np.float64]
DRAWS: Final = 200
LEVEL: Final = 0.95


def parts(columns: Columns, centre: Array, groups: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """Return T of each group (n_groups, size, size), and that of the rest (size, size).

    Parameters
    ----------
    centre : float64 (width,)
        The released means of the columns.
    groups : positions of the features of each schema column; every feature is in one group.
    """
    size = columns.size
    of_feature = {feature: group for group, features in enumerate(groups) for feature in features}
    found, rest = np.zeros((len(groups), size, size)), np.zeros((size, size))
    rest[0, 0] = 1.0
    for place, features in enumerate(columns.origins):
        column = place + 1
        if len(features) == 1:
            found[of_feature[features[0]], column, column] = 1.0
            continue
        i, k = features
        factor = columns.pair_factor
        surplus = float(centre[place]) - factor * float(centre[i] * centre[k])
        for own, other, group in ((i, k, of_feature[i]), (k, i, of_feature[k])):
            found[group, column, column] += 0.5
            found[group, own + 1, column] += 0.5 * factor * centre[other]
            found[group, other + 1, column] -= 0.5 * factor * centre[own]
            found[group, 0, column] += surplus
        rest[0, column] = -2 * surplus
    return found, rest


def moments(released: Released) -> Array:
    """Return the second moments (size, size) of the encoded rows: the noisy Gram matrix's positive part, a unit."""
    values, vectors = np.linalg.eigh(released.gram)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T / max(released.units, 1.0))


def redrawn(released: Released, outcome: Outcome, count: int, generator: np.random.Generator) -> Array:
    """Return weights (count, size, directions) of the released sums with noise and scatter of rows added again.

    The noise has the deviations that `released` states. Of given rows the products with the target scatter with the
    covariance ``c A`` of the model.
    """
    size, directions = released.slope.shape
    values, vectors = np.linalg.eigh(released.gram)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    scale = np.sqrt(np.asarray(outcome.variances))
    found = np.empty((count, size, directions))
    for number in range(count):
        half = generator.normal(size=(size, size)) * released.gram_deviation / 2
        noise = generator.normal(size=(size, directions)) * released.slope_deviation
        scatter = root @ generator.normal(size=(size, directions)) * scale
        again = Released(
            released.gram + half + half.T,
            released.slope + noise + scatter,
            released.gram_deviation,
            released.slope_deviation,
            released.units,
        )
        found[number] = everybodys(again, outcome)
    return found


def spreads(maps: Array, second: Array, weights: Array) -> Array:
    """Return the root mean square over the rows of each group's part (..., n_groups, outputs).

    Parameters
    ----------
    maps : float64 (n_groups, size, size)
    second : float64 (size, size)
        See `moments`.
    weights : float64 (..., size, outputs)
    """
    values, vectors = np.linalg.eigh(second)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))).T
    parts_of = np.einsum("gij,...jo->...gio", root @ maps, weights)
    return np.asarray(np.sqrt(np.square(parts_of).sum(axis=-2)))


def margins(of_noise: Array, level: float = LEVEL) -> Array:
    """Return how far noise moves each spread at most, of all together with probability `level`.

    Parameters
    ----------
    of_noise : float64 (draws, ...)
        `spreads` of the differences that noise made.
    """
    each = np.quantile(of_noise, level, axis=0)
    floor = np.maximum(each, 1e-300)
    worst = (of_noise / floor).reshape(len(of_noise), -1).max(axis=1)
    return np.asarray(each * max(1.0, float(np.quantile(worst, level))))
