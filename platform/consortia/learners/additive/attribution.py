"""How far noise and the scatter of rows can have moved each shape of a released model. All of it is free.

A column moves the score by ``|f| = sqrt(sum of part f^2)`` over its cells, with the released shares `part` of the
units: a root mean square over the rows. It is a norm, so the shape without chance has a norm within ``|e|`` of the one
that is shown, where e is what chance did to the shape. `margins` bounds ``|e|``.

Method
------
1. *Noise.* The module holds the variance of each cell by the noise that protects rows, at most (`Shapes.noise`).
2. *Scatter of rows.* Labels scatter, so a shuffled column has a shape without any noise. The sums of a cell with n rows
   scatter with variance ``s n``, in every round by the same amount, and fall by ``h n`` where the score of the cell
   rises by 1. `scatter` pushes that through the learner's own steps M: ``S = sum over t of (1 - M h n)^t M``, and the
   variances are the diagonal of ``S (s n) S'``. Where steps converge that is about ``1/(c n)`` for each cell, more
   where the clip cuts off much. s and h are those of clipped gradients of labels drawn from the model itself, for rows
   whose columns are drawn one by one by the released shares.
3. *Margin.* Covariances between cells are not known. Of all centred normal vectors e with the same sum of
   ``part Var(e)``, that with one direction alone has the largest quantile of ``|e|`` at every level above .785
   (Székely and Bakirov 2003, *Extremal probabilities for Gaussian quadratic forms*). So the margin is ``z sqrt(sum of
   part Var(e))``, with z a normal quantile shared between all columns and outputs (Bonferroni). It is conservative:
   up to twice too large where many cells scatter alone, and no more than needed for a flag, whose two cells are one
   direction.

Assumptions: chance is about normal; columns that chance moves have nothing to do with each other; labels are about as
the model says, and a regression's residual has at most the variance that `Outcome` guesses; damping is the least there
is (more damping scatters less); pooling of a monotone column makes e no longer. Shrinkage of a shape by damping and
smoothing is no chance and not in the margin. Tests hold it against shuffled columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortia.learners.additive.boosting import LEAST, curvatures, mover
from consortia.learners.additive.histograms import clipped_slopes, scores
from consortia.learners.additive.model import PART, SHAPES, START, Recipe

__all__ = ["LEVEL", "margins", "norms", "scatter"]

Array = NDArray[np.float64]
LEVEL: Final = 0.95
_ROWS: Final = 2000
#: Of a score, over which the fall of a gradient is measured.
_STEP: Final = 1 / 32
#: Values of a regression's residual, each as likely as any other.
_RESIDUALS: Final = 32


def norms(rule: Recipe, part: Array, squares: Array) -> Array:
    """Return ``sqrt(sum of part squares)`` of each term (n_terms, outputs); `squares` float64 (size, outputs)."""
    weighed = part[:, None] * squares
    return np.asarray(np.sqrt(np.stack([weighed[place].sum(axis=0) for place in rule.cells.slices])))


def margins(rule: Recipe, part: Array, variances: Array) -> Array:
    """Return how far chance moves each norm at most (n_terms, outputs), of all together with probability `LEVEL`.

    Parameters
    ----------
    variances : float64 (size, outputs)
        Of each number of the shapes, by noise and by scatter.
    """
    each = (1 - LEVEL) / (len(rule.cells.terms) * rule.outputs)
    return NormalDist().inv_cdf(1 - each / 2) * norms(rule, part, variances)


def scatter(rule: Recipe, state: Mapping[str, Tensor], units: float, generator: np.random.Generator) -> Array:
    """Return the variance of each number of the shapes (size, outputs) by the scatter of rows alone.

    Parameters
    ----------
    units : public number of units that surely count in the sums; with fewer than there are the variance is too large.
    """
    part = state[PART].numpy()
    spread, fall = _gradients(rule, state, generator)
    found = np.zeros((rule.cells.size, rule.outputs))
    for output, c in enumerate(curvatures(rule.outcome)):
        for term, place in zip(rule.cells.terms, rule.cells.slices, strict=True):
            held = units * part[place]
            move = mover(rule.cells, term, part[place], c * units, LEAST)
            left = np.eye(term.cells) - move * (fall[output] * held)
            pushed = np.zeros_like(move)
            for _ in range(1, rule.shares.messages):
                pushed = left @ pushed + move
            found[place, output] = np.square(pushed) @ (spread[output] * held)
    return found


def _gradients(rule: Recipe, state: Mapping[str, Tensor], generator: np.random.Generator) -> tuple[Array, Array]:
    """Return s and h by output (outputs,): variance of a row's clipped gradient, and its fall by the row's score."""
    part = state[PART].numpy()
    cells = [p.start + generator.choice(p.stop - p.start, _ROWS, p=part[p] / part[p].sum()) for p in rule.cells.slices]
    score = scores(torch.from_numpy(np.stack(cells, axis=1)), state[SHAPES], state[START])
    labels = _labels(rule, score)

    def gradient(moved: Tensor) -> list[tuple[Array, Array]]:
        return [
            (chance, np.asarray(clipped_slopes(rule.outcome, rule.clip, target, moved))) for chance, target in labels
        ]

    def mean(found: list[tuple[Array, Array]]) -> Array:
        return np.asarray(np.mean(np.sum([chance[:, None] * value for chance, value in found], axis=0), axis=0))

    here = gradient(score)
    spread, middle = mean([(chance, np.square(value)) for chance, value in here]), mean(here)
    fall = np.zeros(rule.outputs)
    for output, step in enumerate(torch.eye(rule.outputs, dtype=torch.float64) * _STEP):
        up, down = mean(gradient(score + step))[output], mean(gradient(score - step))[output]
        fall[output] = max(0.0, min(middle[output] - up, down - middle[output]) / _STEP)
    return spread, fall


def _labels(rule: Recipe, score: Tensor) -> list[tuple[Array, Tensor]]:
    """Return the labels that rows of these scores can have: chance (n_rows,) and target (n_rows,) of each."""
    outcome, count = rule.outcome, len(score)
    if outcome.kind == "regression":
        quantiles = (np.arange(_RESIDUALS) + 0.5) / _RESIDUALS
        residuals = [NormalDist(0, outcome.residual**0.5).inv_cdf(q) for q in quantiles.tolist()]
        even = np.full(count, 1 / _RESIDUALS)
        return [(even, outcome.middle + outcome.half * (score[:, 0] + one)) for one in residuals]
    if outcome.kind == "binary":
        chances = torch.cat([torch.sigmoid(-score), torch.sigmoid(score)], dim=1).numpy()
    else:
        chances = torch.softmax(score, dim=1).numpy()
    return [(chances[:, place], torch.full((count,), place)) for place in range(chances.shape[1])]
