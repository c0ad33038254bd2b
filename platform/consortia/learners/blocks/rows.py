"""Rows as they are summed: each unit's rows share its weight, and numbers lie on a public grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from privacy.errors import PlanError

__all__ = ["MOST_ROWS", "SHORT", "Rows", "lengths", "on_grid"]

MOST_ROWS: Final = 2**20
#: Room for the rounding of a norm and a quotient before the grid rounds towards 0.
SHORT: Final = 1 - 2.0**-40


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


def lengths(vectors: Tensor) -> Tensor:
    """Return the norm of each row (n_rows, 1), added column by column: the same to the bit in any batch of rows."""
    total = torch.zeros(len(vectors), dtype=torch.float64)
    for column in vectors.T:
        total = total + column * column
    return total.sqrt().unsqueeze(1)


def on_grid(values: Tensor, steps: float) -> Tensor:
    """Round towards 0 to multiples of 1 / steps; a row with a number that is not finite becomes 0."""
    finite = torch.isfinite(values).all(dim=1, keepdim=True)
    return torch.trunc(torch.where(finite, values, 0.0) * steps) / steps
