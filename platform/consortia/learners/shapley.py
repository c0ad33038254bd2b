"""Shapley's weights: how much the value of each coalition counts for each participant.

Up to `MOST_EXACT` participants every coalition is looked at. Of more, random orders of joining are sampled.

References: Shapley 1953; Castro et al. 2009 (sampled orders).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_EXACT", "shares"]

Array = NDArray[np.float64]
#: Up to so many participants every coalition is looked at.
MOST_EXACT: Final = 10
#: Of more, at least so many orders with so many rotations.
_SAMPLES: Final = 4
_TURNS: Final = 10


def shares(count: int, generator: np.random.Generator, values: int) -> list[dict[int, Array]]:
    """Return the weights (n,) of coalitions; bit i of a coalition is set where participant i is in it.

    The sum over coalitions of weight times value is the Shapley value, and the mean over the list where that has more
    than one entry: then each is a sample. In every entry the values sum to that of all less that of nobody.

    Parameters
    ----------
    count : participants.
    values : about how many coalitions are looked at where they are sampled.
    """
    if count <= MOST_EXACT:
        return [_exact(count)]
    turns = min(count, _TURNS)
    return [_sampled(count, turns, generator) for _ in range(max(_SAMPLES, values // (turns * count)))]


def _exact(count: int) -> dict[int, Array]:
    found = {}
    for members in range(1 << count):
        size = members.bit_count()
        inside = 1 / (size * math.comb(count, size)) if size else 0.0
        outside = 1 / ((count - size) * math.comb(count, size)) if size < count else 0.0
        found[members] = np.array([inside if members >> i & 1 else -outside for i in range(count)])
    return found


def _sampled(count: int, turns: int, generator: np.random.Generator) -> dict[int, Array]:
    """Return the weights by a random order with evenly spaced rotations of it.

    So each participant stands in early and late places alike, for whoever is first gets most.
    """
    order = generator.permutation(count)
    found: dict[int, Array] = {}
    for turn in range(turns):
        members = 0
        for i in np.roll(order, turn * count // turns):
            before, members = members, members | 1 << int(i)
            for coalition, sign in ((members, 1.0), (before, -1.0)):
                found.setdefault(coalition, np.zeros(count))[i] += sign / turns
    return found
