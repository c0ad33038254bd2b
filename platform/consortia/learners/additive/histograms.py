"""The two kinds of message before noise: rows counted by cell, and gradients summed by cell.

Formal guarantees
-----------------
Under adding or removing one unit, for any rows and any model that a coordinator sends, with d terms:

* **Counts** move by at most ``sqrt(d)`` in L2. A row adds 1 to one cell of each term: a vector of d ones. A unit adds
  the mean of its rows' vectors, whose norm is at most the largest of theirs.
* **Gradients** move by at most ``sqrt(d) G``. A row's gradient, one number for each output, is clipped to G in L2 and
  added to one cell of each term: a vector of norm ``sqrt(d) G`` at most. A unit adds the mean of its rows' vectors.
* *To the bit.* Scores are added term by term, rounded to a public grid and passed through one table of exponentials, so
  a row's gradient goes by the row and the model alone, not by the batch. It is rounded towards 0 to a grid before
  anything is added, on which float64 sums of 2^20 rows are exact, in whatever order.
* A row whose target is not finite, or whose gradient is not, adds 0 to the gradients.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortia.learners.additive.cells import Cells
from consortia.learners.blocks.rows import SHORT, Rows, lengths, on_grid
from consortia.learners.sums.outcome import Outcome

__all__ = ["clipped_slopes", "counts", "gradients", "scores", "slopes"]

Array = NDArray[np.float64]
#: Steps of the public grid of what a row adds: multiples of 2^-24, 2^20 of them below 2^52 steps.
_STEPS: Final = 2.0**24
#: Scores are cut off here and rounded to this grid before the exponential.
_LARGEST: Final = 16.0
_SCORE_STEPS: Final = 2**10


def counts(cells: Cells, rows: Rows) -> Array:
    """Return how many units lie in each cell (size,); a unit of several rows counts in parts."""
    added = on_grid(rows.shares() * SHORT, _STEPS)
    return _summed(cells, cells.of(rows.features), added).ravel()


def gradients(cells: Cells, outcome: Outcome, clip: float, rows: Rows, shapes: Tensor, start: Tensor) -> Array:
    """Return the clipped gradients by cell, flat from (size, outputs).

    Parameters
    ----------
    clip : G.
    shapes, start : Tensor (size, outputs) and (outputs,)
        Of the model so far.
    """
    found = cells.of(rows.features)
    clipped = clipped_slopes(outcome, clip, rows.target, scores(found, shapes, start))
    return _summed(cells, found, on_grid(clipped * rows.shares() * SHORT, _STEPS)).ravel()


def clipped_slopes(outcome: Outcome, clip: float, target: Tensor, score: Tensor) -> Tensor:
    """Return the gradient of each row (n_rows, outputs), no longer than `clip`."""
    slope = slopes(outcome, target, score)
    return slope * (clip / lengths(slope).clamp(min=clip))


def scores(found: Tensor, shapes: Tensor, start: Tensor) -> Tensor:
    """Return the model's scores (n_rows, outputs) for cells (n_rows, n_terms), added term by term."""
    total = start.expand(len(found), -1)
    for place in found.T:
        total = total + shapes[place]
    return total


def slopes(outcome: Outcome, target: Tensor, score: Tensor) -> Tensor:
    """Return what is left of the target of each row (n_rows, outputs): minus the gradient of its loss."""
    if outcome.kind == "regression":
        y = ((target.double() - outcome.middle) / outcome.half).clamp(-1, 1)
        return y.unsqueeze(1) - score.nan_to_num(0.0).clamp(-_LARGEST, _LARGEST)
    if outcome.kind == "binary":
        return target.double().unsqueeze(1) - 1 / (1 + _exponential(-score))
    powers = _exponential(score)
    total = torch.zeros(len(score), dtype=torch.float64)
    for column in powers.T:
        total = total + column
    known = torch.eye(len(outcome.expected), dtype=torch.float64)[target.long()]
    return known - powers / total.unsqueeze(1)


@cache
def _powers() -> Tensor:
    steps = torch.arange(-_LARGEST * _SCORE_STEPS, _LARGEST * _SCORE_STEPS + 1, dtype=torch.float64)
    return torch.exp(steps / _SCORE_STEPS)


def _exponential(score: Tensor) -> Tensor:
    """Return exp of scores on the grid, by table: the same number for the same score in any batch."""
    bounded = score.nan_to_num(0.0).clamp(-_LARGEST, _LARGEST)
    return _powers()[(bounded * _SCORE_STEPS).round().long() + int(_LARGEST * _SCORE_STEPS)]


def _summed(cells: Cells, found: Tensor, added: Tensor) -> Array:
    """Return the sum by cell (size, outputs) of what each row adds (n_rows, outputs) to its cell of every term."""
    total = torch.zeros(cells.size, added.shape[1], dtype=torch.float64)
    for place in found.T:
        total.index_add_(0, place, added)
    return np.asarray(total)
