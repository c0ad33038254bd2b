"""From noisy histograms to the next model: post-processing of what was released and public constants.

Each round adds to every shape a damped Newton step: the gradients of its cells over ``c n + lambda``, with n the noisy
count of a cell and c the variance of the target by its public expectation, smoothed between neighbouring cells. Damping
and smoothing are as large as the noise: where it is small beside the counts, they vanish. All d shapes step at once, so
each takes 2/d of its step; correlated columns would otherwise overshoot. The constant takes its whole step apart, and
shapes are centred, weighted by the counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consortia.learners.additive.cells import Cells, Term
from consortia.learners.sums.outcome import Outcome

__all__ = ["LEAST", "Shapes", "boosted", "counted", "curvatures", "monotone", "mover"]

Array = NDArray[np.float64]
#: With this number of cells, smoothing is as strong as damping. It grows with the square of the number of cells, so
#: that finer cells do not make a rougher shape.
_CELLS: Final = 4
_STEP: Final = 2.0
#: Damping without noise: that of one row.
LEAST: Final = 1.0
#: A rare class counts with this variance at least.
_LEAST_VARIANCE: Final = 0.01


@dataclass(frozen=True)
class Shapes:
    """The model so far.

    Attributes
    ----------
    shapes : float64 (size, outputs)
    start : float64 (outputs,)
    part : float64 (size,)
        The noisy share of the units that lies in each cell; 1 in sum over a term.
    noise : float64 (size, outputs)
        Variance of each number of `shapes` by noise alone, if no later round corrected any of it: at most so much.
    """

    shapes: Array
    start: Array
    part: Array
    noise: Array


def curvatures(outcome: Outcome) -> Array:
    """Return c by output: how fast a gradient falls when its score rises, by the public expectation."""
    if outcome.kind == "regression":
        return np.ones(1)
    expected = np.asarray(outcome.expected)
    return np.asarray(np.maximum(expected * (1 - expected), _LEAST_VARIANCE))


def counted(cells: Cells, now: Shapes, sums: Array, units: float) -> Shapes:
    """Return the model with the parts that message 1 gives: noisy counts, none below 0, over their sum.

    Parameters
    ----------
    sums : float64 (size,)
    units : public number of units in the sums.
    """
    floor = max(units, 1.0) * 1e-6
    part = np.maximum(sums, floor)
    for place in cells.slices:
        part[place] /= part[place].sum()
    return Shapes(now.shapes, now.start, part, now.noise)


def boosted(cells: Cells, outcome: Outcome, now: Shapes, sums: Array, deviation: float, units: float) -> Shapes:
    """Return the model after one round.

    Parameters
    ----------
    sums : float64 (size * outputs,)
        Gradients by cell.
    deviation : of the noise in each of these numbers.
    units : public number of units in the sums.
    """
    gradient = sums.reshape(now.shapes.shape)
    shapes, start, noise = now.shapes.copy(), now.start.copy(), now.noise.copy()
    damping = max(deviation, LEAST)
    places = list(zip(cells.terms, cells.slices, strict=True))
    for output, c in enumerate(curvatures(outcome)):
        totals = [gradient[place, output].sum() for _, place in places]
        start[output] += float(np.mean(totals)) / (c * units + damping)
        for term, place in places:
            move = mover(cells, term, now.part[place], c * units, damping)
            shapes[place, output] += move @ gradient[place, output]
            noise[place, output] += deviation**2 * np.square(move).sum(axis=1)
    for term, place in places:
        if term.monotone:
            for output in range(shapes.shape[1]):
                ordered = slice(place.start, place.start + term.bins)
                rising = monotone(shapes[ordered, output] * term.monotone, now.part[ordered])
                shapes[ordered, output] = rising * term.monotone
    return Shapes(shapes, start, now.part, noise)


def mover(cells: Cells, term: Term, part: Array, held: float, damping: float) -> Array:
    """Return the matrix (cells, cells) that turns a term's gradients into its step, whose weighted mean is 0.

    Parameters
    ----------
    part : float64 (cells,)
        Of the units, by cell of the term.
    held : c n, the curvature of all units.
    """
    smooth = damping * (term.bins / _CELLS) ** 2
    solver = np.linalg.inv(np.diag(held * part + damping) + smooth * term.roughness())
    return np.asarray(min(1.0, _STEP / len(cells.terms)) * (solver - part @ solver))


def monotone(values: Array, weights: Array) -> Array:
    """Return the rising sequence nearest to `values` in weighted squares (pool adjacent violators)."""
    means: list[float] = []
    held: list[float] = []
    lengths: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        means.append(value)
        held.append(weight)
        lengths.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            both = held[-2] + held[-1]
            mean = math.fsum((means[-2] * held[-2], means[-1] * held[-1])) / both
            means[-2:], held[-2:], lengths[-2:] = [mean], [both], [lengths[-2] + lengths[-1]]
    return np.repeat(means, lengths)
