"""Opacus' PRV accountant (Gopi, Lee & Wutschitz 2021), against which the accounting of Gaussian events is checked."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from opacus.accountants import PRVAccountant

from privacy.errors import UnknownEventError
from privacy.events import Event


def prv_epsilon(events: Sequence[Event], delta: float) -> float:
    """Return the PRV upper bound of epsilon, largest over partitions; it adds its error of 0.01 on purpose.

    Raises
    ------
    UnknownEventError
        For events that are not Gaussian, such as Laplace ones, which PRV cannot count.
    """
    if any(event.non_private for event in events):
        return math.inf
    worst = 0.0
    for partition in {event.partition for event in events}:
        accountant = PRVAccountant()
        for event in (each for each in events if each.partition == partition):
            law = event.sampled_gaussian()
            if law is None:
                raise UnknownEventError(f"Opacus PRV counts Gaussian events only, got {event.describe()}")
            accountant.history.append(law)
        # At q = 1 Opacus takes log(1 - q) = -inf, which is the limit it needs.
        with warnings.catch_warnings(), np.errstate(divide="ignore"):
            # Opacus sizes its grid with RDP and warns when that bound could be tighter: it changes no result.
            warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
            worst = max(worst, float(accountant.get_epsilon(delta)))
    return worst
