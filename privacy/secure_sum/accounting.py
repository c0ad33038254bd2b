"""Counts what a round of a secure sum costs a member, by the number of colluders.

A member's noise is promised against the coordinator and any t of the other members: the budget is charged at that.
With c colluders, n - c shares are left of which n - t make up sigma, so the noise multiplier is
``sigma sqrt((n - c) / (n - t))``; with c = n - 1 it is the member's own share alone.
"""

import math
from dataclasses import dataclass, replace

from privacy.accounting import epsilon
from privacy.errors import PlanError
from privacy.events import PoissonGaussian

__all__ = ["Exposure", "exposure", "remaining"]


def remaining(noise_multiplier: float, cohort: int, colluders: int, against: int) -> float:
    """Return the noise multiplier left when `against` of `cohort` members subtract their shares.

    Parameters
    ----------
    noise_multiplier : sigma, promised against `colluders`.
    """
    if not (0 <= against < cohort and 0 <= colluders <= cohort - 2):
        raise PlanError(
            f"colluders: wanted t <= n - 2 and c <= n - 1, got n = {cohort}, t = {colluders}, c = {against}"
        )
    return noise_multiplier * math.sqrt((cohort - against) / (cohort - colluders))


@dataclass(frozen=True)
class Exposure:
    """Epsilon of one run against the coordinator and a number of colluding members, at one delta.

    Attributes
    ----------
    nobody, promised, all_others : 0, t and n - 1 colluders; the budget is charged at `promised`.
    """

    nobody: float
    promised: float
    all_others: float
    colluders: int
    cohort: int
    delta: float


def exposure(event: PoissonGaussian, cohort: int, colluders: int, delta: float) -> Exposure:
    """Return what `event`, a whole run as the ledger charges it, is worth against 0, t and n - 1 colluders."""

    def against(c: int) -> float:
        sigma = remaining(event.noise_multiplier, cohort, colluders, c)
        return epsilon([replace(event, noise_multiplier=sigma)], delta)

    return Exposure(against(0), against(colluders), against(cohort - 1), colluders, cohort, delta)
