"""Counts epsilon by round as the coordinator sees it."""

from __future__ import annotations

import math
from functools import lru_cache

from consortia.reports.live_runs import LiveParticipant, Run
from privacy.accounting import epsilon
from privacy.events import PoissonGaussian

__all__ = ["curve"]

#: Of the privacy loss distribution: rounded up, so a coarse grid overstates by at most a thousandth.
_GRID = 1e-3


def curve(run: Run, participant: LiveParticipant, most: int = 25) -> list[tuple[int, float]]:
    """Return (round, epsilon of the run so far) at the participant's delta, for at most `most` rounds and the last.

    Empty where the noise is not known, the run is non-private, or vertical (one release, no rounds).
    """
    taken = participant.contributed
    step = max(1, math.ceil(len(taken) / most))
    counts = [n for n in range(1, len(taken) + 1) if n % step == 0 or n == len(taken)]
    found = ((taken[n - 1], run.event(participant, n)) for n in counts)
    return [(number, _epsilon(event, participant.delta)) for number, event in found if event is not None]


@lru_cache(maxsize=4096)
def _epsilon(event: PoissonGaussian, delta: float) -> float:
    return epsilon([event], delta, grid=_GRID)
