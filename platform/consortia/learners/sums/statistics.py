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
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortia.learners.sums.columns import Columns
from consortia.learners.sums.outcome import Outcome
from privacy.errors import PlanError

__all__ = ["MOST_ROWS", "Rows", "first_message", "gram_size", "packed", "second_message", "unpacked"]

Array = NDArray[np.float64]
MOST_ROWS: Final = 2**20
#: Steps of the public grid to one: products of two numbers are multiples of 2^-32, 2^20 of them below 2^52 steps.
_STEPS: Final = 2.0**16
_FIRST_STEPS: Final = 2.0**24
#: Room for the rounding of a norm and a quotient before the grid rounds towards 0.
_SHORT: Final = 1 - 2.0**-40


@dataclass(frozen=True)
class Rows:
    """Rows of one participant.

    Attributes
    ----------
    features : Tensor (n_rows, n_features)
    target : Tensor (n_rows,)
    unit_index : LongTensor (n_rows,)
        The unit of each row, from 0 on.
    """

    features: Tensor
    target: Tensor
    unit_index: Tensor

    def shares(self) -> Tensor:
        """Return 1/m for each row (n_rows, 1), m being the number of its unit's rows."""
        if len(self.unit_index) > MOST_ROWS:
            raise PlanError(f"rows: wanted at most {MOST_ROWS} training rows, for which sums are exact")
        counts = torch.bincount(self.unit_index).double()
        return (1 / counts)[self.unit_index].unsqueeze(1)


def first_message(columns: Columns, rows: Rows) -> Array:
    """Return message 1 (first_size,): sums of the columns, then of the squares of those that are not 0/1."""
    x = columns.expand(rows.features)
    vectors = torch.cat([x, x[:, columns.squared].square()], dim=1)
    bound = columns.first_bound
    clipped = vectors * (bound / _lengths(vectors).clamp(min=bound))
    return np.asarray(on_grid(clipped * rows.shares() * _SHORT, _FIRST_STEPS).sum(dim=0))


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
    return on_grid(x * share * _SHORT, _STEPS), on_grid(outcome.deviations(rows.target) * share * _SHORT, _STEPS)


def _lengths(vectors: Tensor) -> Tensor:
    """Return the norm of each row (n_rows, 1), added column by column: the same to the bit in any batch of rows."""
    total = torch.zeros(len(vectors), dtype=torch.float64)
    for column in vectors.T:
        total = total + column * column
    return total.sqrt().unsqueeze(1)


def on_grid(values: Tensor, steps: float) -> Tensor:
    """Round towards 0 to multiples of 1 / steps; a row with a number that is not finite becomes 0."""
    finite = torch.isfinite(values).all(dim=1, keepdim=True)
    return torch.trunc(torch.where(finite, values, 0.0) * steps) / steps


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
