"""Seconds by round, with the set-up of round 1 apart so that it flattens nothing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from consortia.common.words import number
from consortia.reports.charts import Spot

__all__ = ["without_setup"]

#: A first round that took so many times the median of the others counts as set-up.
_TIMES: Final = 2.0


def without_setup(rounds: Sequence[tuple[int, float]]) -> tuple[list[Spot], str]:
    """Return the points to draw, and a sentence about a first round that is not among them.

    Parameters
    ----------
    rounds : sequence of (round, seconds)
    """
    points: list[Spot] = [(float(each), seconds, None, None) for each, seconds in rounds]
    if len(points) > 2 and points[0][1] > _TIMES * statistics.median(seconds for _, seconds, *_ in points[1:]):
        return points[1:], f"; round {rounds[0][0]}, not drawn, took {number(points[0][1], 1)} s with its set-up"
    return points, ""
