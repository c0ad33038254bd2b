"""What joining is likely to be worth: a rule of thumb from public numbers, made before anybody joins.

Further rows
------------
The products of the others' rows with the target arrive with the scatter of their rows and with noise. Per direction of
the columns one row tells ``scatter = c / d`` (c: variance of a row's deviation, d: `effective_columns`). With weights w
and units n of the others, and noise of variance v in the sum, they tell as much as

    N_eff = (sum w n)^2 / (sum w^2 n + v / scatter)

rows of one's own: ``N^2 / (N + N*)`` where weights are equal, with ``N* = d s^2 / (f mu^2 c)`` of everybody's noise
together (s: sensitivity, f: share of the budget). It never exceeds the others' rows by number.

Net gain
--------
A model of n rows falls short of the best one by about ``SHORT / sqrt(4 c n)`` of AUC (c = 1/4 where classes are equally
frequent), so N_eff further rows gain ``shortfall(n) - shortfall(n + N_eff)``. SHORT is read off the prototype's table
of card defaults (net gains of .005 to .035 at 100 to 1,000 rows, 3 to 20 participants). At N_eff = 0 what comes back is
a second model of one's own rows, which is what the control is: so the net gain begins at 0.

The interval is the value -+ ``shortfall(n)``: a model falls short by chance as much as by its size, and so does the
control. Between draws of rows the net gain of one run has a standard deviation of about half of it (.44 to .61 in four
public sets), so the interval is about two of these wide to each side. It is meant for the net gain that one receipt
measures. `benchmarks/forecast.py` counts how often it holds it; it is not proved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from consortia.learners.sums.columns import Columns

__all__ = [
    "WORDS",
    "Gain",
    "Others",
    "effective_columns",
    "effective_rows",
    "expected_gain",
    "own_effective_columns",
    "total_noise",
    "word_of",
]

#: The verdicts.
WORDS: Final = ("worth it", "little", "not worth it")
#: AUC that a model of one row would fall short by, were the rule valid there; classes equally frequent.
SHORT: Final = 0.36
#: Half the width of the interval, in parts of the shortfall.
REACH: Final = 1.0
#: From which net gain on (of AUC) joining is worth the effort.
WORTH: Final = 0.005
#: Variance of a number that is spread evenly over [-1, 1], and of its columns (`consortia.learners.sums.columns`).
_NUMBER, _SECOND, _THIRD, _PAIR = 1 / 3, 0.5**2 / 5, 0.35**2 / 7, 0.35**2 / 9


@dataclass(frozen=True)
class Others:
    """The other participants, as the sums count them.

    Attributes
    ----------
    units, weights : of each.
    noise : variance of all noise in a sum of products with the target, one's own part taken off.
    """

    units: tuple[float, ...]
    weights: tuple[float, ...]
    noise: float


@dataclass(frozen=True)
class Gain:
    """An expected net gain of AUC and its interval."""

    value: float
    low: float
    high: float


def effective_columns(columns: Columns) -> float:
    """Return d: in how many directions rows vary alike, ``(sum v)^2 / sum v^2`` over the columns' variances v.

    It takes numbers and scores as spread evenly within their public bounds, categories as equally frequent, and columns
    as independent. Real columns are not, so d is at most about as large as this says, and N_eff at least.
    """
    count, binary = len(columns.numbers), sum(columns.binary)
    share = min(1.0, columns.ones / binary) if binary else 0.0
    variances = [_NUMBER] * (columns.features - binary) + [share * (1 - share)] * binary
    variances += [_SECOND, _THIRD] * count
    if columns.paired:
        variances += [_PAIR] * (count * (count - 1) // 2)
    return _alike(math.fsum(variances), math.fsum(v * v for v in variances))


def own_effective_columns(columns: Columns, features: Tensor) -> float:
    """Return the same d of rows at hand: ``(trace C)^2 / trace C^2`` of their columns' covariance C.

    Parameters
    ----------
    features : Tensor (n_rows, n_features)
    """
    x = columns.expand(features)
    x = x - x.mean(dim=0)
    gram = x.T @ x
    return _alike(float(gram.trace()), float(gram.square().sum()))


def _alike(total: float, squares: float) -> float:
    return total * total / squares if squares else 1.0


def effective_rows(others: Others, scatter: float) -> float:
    """Return N_eff, see the module.

    Parameters
    ----------
    scatter : float > 0
        Variance of one row's product with the target in one direction.
    """
    both = list(zip(others.weights, others.units, strict=True))
    total = math.fsum(w * n for w, n in both)
    spread = math.fsum(w * w * n for w, n in both) + others.noise / scatter
    return total * total / spread if spread else 0.0


def shortfall(rows: float, variance: float, most: float = 0.5) -> float:
    """Return by how much AUC a model of so many rows falls short of the best one; never more than `most`."""
    return min(most, SHORT / math.sqrt(4 * variance * rows))


def expected_gain(own: float, further: float, variance: float, most: float = 0.5) -> Gain:
    """Return the net gain of `further` rows beside one's own.

    Parameters
    ----------
    own, further : numbers of rows; own > 0.
    variance : float
        p (1 - p) for the share p of the positive class.
    most : float
        What a model alone falls short of AUC = 1 by; without it the coin's .5.
    """
    short = shortfall(own, variance, most)
    value = short * (1 - math.sqrt(own / (own + further)))
    return Gain(value, value - REACH * short, value + REACH * short)


def word_of(own: float, further: float, gain: Gain | None) -> str:
    """Return "worth it", "little" or "not worth it".

    Not worth it: fewer further rows than half of one's own. Worth it: as many as one's own, and a net gain of .005 at
    least where one is expected. A measure of the others' rows alone where no net gain is known, as for a regression.
    """
    if further < own / 2:
        return "not worth it"
    if further >= own and (gain is None or gain.value >= WORTH):
        return "worth it"
    return "little"


def total_noise(deviations: Sequence[float], weights: Sequence[float]) -> float:
    """Return the variance of weighted noise."""
    return math.fsum((w * s) ** 2 for w, s in zip(weights, deviations, strict=True))
