"""The two messages as vectors, before noise: what is summed, and how far one unit can move it.

A unit's m rows weigh 1/m each, in the columns, the Gram matrix and the products alike, so that ``b = A w`` holds for
the sums as for the rows.

Formal guarantees
-----------------
Under adding or removing one unit, for any rows:

* **Message 1** moves by at most R0 in L2. A row's columns and the squares of those that are not 0/1 are one vector that
  is clipped to R0; a unit adds the mean of its rows' vectors.
* **Message 2, Gram matrix** moves by at most 1. A row x has norm 1 at most; a unit adds ``sum x x' / m``, whose
  Frobenius norm is at most ``sum |x|^2 / m <= 1``. The vector is (diagonal, sqrt(2) times the upper triangle), whose
  L2 norm is that Frobenius norm.
* **Message 2, products with the target** move by at most s, the longest deviation (`Outcome.sensitivity`):
  ``|sum x r' / m|_F <= sum |x| |r| / m <= s``.
* *To the bit.* Each row's numbers are rounded towards 0 to a public grid before anything is added (which only shortens
  them); on it float64 sums of 2^20 rows are exact, in whatever order. So what a unit adds goes by its own rows alone,
  and there is no rounding in a sum for which noise would need room. The square root of 2 is a factor after the sum.
* Nothing of it depends on where centre and radius came from: any finite centre and any radius > 0 give rows of norm 1.
* A row with a number that is not finite adds 0.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortia.learners.blocks.rows import SHORT, Rows, on_grid
from consortia.learners.blocks.rows import lengths as _lengths
from consortia.learners.sums.columns import Columns
from consortia.learners.sums.outcome import Outcome

__all__ = ["Rows", "first_message", "gram_size", "packed", "prepared", "second_message", "unpacked"]

Array = NDArray[np.float64]
#: Steps of the public grid to one: products of two numbers are multiples of 2^-32, 2^20 of them below 2^52 steps.
_STEPS: Final = 2.0**16
_FIRST_STEPS: Final = 2.0**24


def first_message(columns: Columns, rows: Rows) -> Array:
    """Return message 1 (first_size,): sums of the columns, then of the squares of those that are not 0/1."""
    x = columns.expand(rows.features)
    vectors = torch.cat([x, x[:, columns.squared].square()], dim=1)
    bound = columns.first_bound
    clipped = vectors * (bound / _lengths(vectors).clamp(min=bound))
    return np.asarray(on_grid(clipped * rows.shares() * SHORT, _FIRST_STEPS).sum(dim=0))


def second_message(
    columns: Columns, outcome: Outcome, rows: Rows, centre: Tensor, radius: Tensor
) -> tuple[Array, Array]:
    """Return the Gram matrix as a vector (`packed`) and the products with the target (size * directions,)."""
    x, deviations = prepared(columns, outcome, rows, centre, radius)
    return packed(np.asarray(x.T @ x)), np.asarray(x.T @ deviations).ravel()


def prepared(columns: Columns, outcome: Outcome, rows: Rows, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows (n_rows, size) and deviations (n_rows, directions), each times the root of its share, on the grid."""
    share = rows.shares().sqrt()
    x = columns.centred(rows.features, centre)
    x = x / torch.maximum(_lengths(x), radius)  # `Columns.encode`, its norms added in one order for every row
    return on_grid(x * share * SHORT, _STEPS), on_grid(outcome.deviations(rows.target) * share * SHORT, _STEPS)


def gram_size(size: int) -> int:
    """Return the length of the vector of a symmetric matrix (size, size)."""
    return size * (size + 1) // 2


def packed(matrix: Array) -> Array:
    """Return a symmetric matrix as (diagonal, sqrt(2) times the upper triangle): L2 norm = Frobenius norm."""
    upper = np.triu_indices(len(matrix), 1)
    return np.concatenate([np.diag(matrix), math.sqrt(2) * matrix[upper]])


def unpacked(vector: Array, size: int) -> Array:
    """Return the symmetric matrix (size, size) of `packed`."""
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size, 1)] = vector[size:] / math.sqrt(2)
    return matrix + matrix.T + np.diag(vector[:size])
