"""Who contributed to a run of steps: Shapley values of how released updates agree.

In a round with the model theta each participant j released its noisy update u_j, the way that its own rows want theta
to go. A coalition S alone would have moved theta by the weighted mean of its updates. To first order that saves j
``<mean of S without j, u_j> / scale`` of its loss, where scale is learning rate times steps. The game of a round is
``v(S) = sum over j of weight_j <mean of S without j, u_j> / scale``: what the updates of S are worth to everybody else,
judged by everybody's own update. Games of rounds are added.

No entry ``<u_j, u_j>`` is in it. Noises of two participants are drawn independently and have mean 0, so the noise of a
round makes no value of that round larger or smaller on average. Values are linear in a round's Gram matrix, so a round
without an answer of i gives i nothing.

The interval is that of scatter between rounds. Given the model of a round, the noise and the sampled rows of that round
are new, so errors of rounds add in squares. Half the squared difference of neighbouring rounds holds these errors and
the trend from one round to the next, which makes the interval wider, not narrower (von Neumann et al. 1941). Its
degrees of freedom, ``2 (T - 1)^2 / (3 T - 4)`` of T rounds, are those of independent normal errors.

References: Shapley 1953; von Neumann, Kent, Bellinson & Hart 1941, *The Mean Square Successive Difference*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consortia.learners import shapley

__all__ = ["LEAST_ROUNDS", "Agreement", "Round", "agreement"]

Array = NDArray[np.float64]
#: Fewer have no scatter between rounds.
LEAST_ROUNDS: Final = 2
#: Of many participants, about so many coalitions.
_COALITIONS: Final = 4000


@dataclass(frozen=True)
class Round:
    """What the released updates of one round say of each other.

    Attributes
    ----------
    gram : float64 (n, n)
        Inner products of updates over the scale; rows of who did not answer are 0. The diagonal is not read.
    weights : float64 (n,)
        Of the round's mean, 0 for who did not answer.
    """

    gram: Array
    weights: Array


@dataclass(frozen=True)
class Agreement:
    """What each participant's updates are worth to the others, in first-order loss saved over all rounds.

    Attributes
    ----------
    values : float64 (n,)
        They sum to `total`.
    rooms : float64 (n,)
        Half widths of the 95 % intervals.
    total : float
    sampled : bool
    """

    values: Array
    rooms: Array
    total: float
    sampled: bool


def agreement(rounds: Sequence[Round], generator: np.random.Generator) -> Agreement:
    """Return the Shapley values of participants.

    Parameters
    ----------
    rounds : at least `LEAST_ROUNDS`, of the same two participants or more.
    generator : for sampled orders of many participants; nothing here protects anybody.

    Raises
    ------
    ValueError
        For fewer rounds or participants.
    """
    count = len(rounds[0].weights) if rounds else 0
    if len(rounds) < LEAST_ROUNDS or count < 2:
        raise ValueError(f"agreement: wanted 2 rounds and 2 participants, got {len(rounds)} and {count}")
    shares = shapley.shares(count, generator, _COALITIONS)
    each = np.stack([_values(one, rounds) for one in shares])
    by_round = each.mean(axis=0)
    everybody = np.ones((1, count))
    total = math.fsum(float(_worth(everybody, one)[0]) for one in rounds)
    steps = len(rounds) - 1
    variance = np.square(np.diff(by_round, axis=0)).sum(axis=0) / 2 * len(rounds) / steps
    sampled = len(shares) > 1
    if sampled:
        variance = variance + each.sum(axis=1).var(axis=0, ddof=1).mean() / len(shares)
    rooms = _quantile(2 * steps**2 / (3 * steps - 1)) * np.sqrt(variance)
    return Agreement(by_round.sum(axis=0), rooms, total, sampled)


def _values(shares: Mapping[int, Array], rounds: Sequence[Round]) -> Array:
    """Return Shapley values by round (n_rounds, n)."""
    count = len(rounds[0].weights)
    members = np.array([[one >> i & 1 for i in range(count)] for one in shares], dtype=np.float64)
    weights = np.stack(list(shares.values()))
    return np.stack([_worth(members, one) @ weights for one in rounds])


def _worth(members: Array, one: Round) -> Array:
    """Return v of coalitions (m,), whose members are 1 in rows of (m, n)."""
    inside = members * one.weights
    others = inside.sum(axis=1, keepdims=True) - inside
    sums = inside @ (one.gram - np.diag(np.diag(one.gram)))
    # Without one's own weight a sum of weights is 0 up to rounding where nobody else is in.
    alone = ((inside > 0).sum(axis=1, keepdims=True) - (inside > 0)) == 0
    means = np.divide(sums, others, out=np.zeros_like(sums), where=~alone)
    return np.asarray(means @ one.weights)


def _quantile(freedom: float) -> float:
    from scipy.stats import t  # not at the top: whoever reads a contract needs it not

    return float(t.ppf(0.975, freedom))
