"""The noise of the blocks: z of a run, for which the ledger's own count of all blocks meets the budget.

With mu the Gaussian-DP parameter of the budget, block i gets the share f_i of mu^2: noise of standard deviation
``sensitivity_i z / sqrt(f_i)`` with z = 1 / mu. Gaussian mechanisms compose exactly by adding mu^2, also where a later
block depends on what earlier ones released (Dong, Roth & Su 2022, *Gaussian DP*, Cor. 3.3), so all blocks together are
one Gaussian mechanism of noise multiplier z. The ledger does not rely on that: it holds an event for each block, and z
is the smallest number for which *its* count of all of them (PLD) meets the budget.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

from consortia.learners.blocks.shares import Shares
from privacy.errors import PlanError
from privacy.events import resized

__all__ = ["mu_of", "solve"]

_CLOSE: Final = 1e-4


def mu_of(epsilon: float, delta: float) -> float:
    """Return mu for which the Gaussian mechanism of noise 1 / mu is exactly (epsilon, delta)-DP (Balle & Wang 2018)."""
    from scipy.optimize import brentq  # not at the top: whoever reads a contract needs neither
    from scipy.special import log_ndtr, ndtr

    def excess(mu: float) -> float:
        return float(ndtr(-epsilon / mu + mu / 2) - math.exp(epsilon + log_ndtr(-epsilon / mu - mu / 2))) - delta

    return float(brentq(excess, 1e-6, 1e3, xtol=1e-12))


@lru_cache(maxsize=1024)
def solve(shares: Shares, epsilon: float, delta: float, spare: int = 0) -> float:
    """Return the smallest z, within .01 %, for which a run and its spare attempts cost at most (epsilon, delta).

    Raises
    ------
    PlanError
        For a budget that is none, or that no noise meets.
    """
    from privacy.accounting import epsilon as epsilon_of

    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise PlanError(f"epsilon, delta: wanted numbers > 0, delta below 1, got {epsilon!r} and {delta!r}")

    def spent(z: float) -> float:
        times, events = shares.plan(z, "record", spare)
        return epsilon_of([resized(event, times) for event in events], delta)

    # The ledger's discretised losses err on the safe side, by less than one of these steps.
    z = math.sqrt(shares.planned(spare)) / mu_of(epsilon, delta)
    for _ in range(100):
        if spent(z) <= epsilon:
            return z
        z *= 1 + _CLOSE
    raise PlanError(f"epsilon: no noise meets {epsilon!r} at delta {delta!r}; take a larger budget")
