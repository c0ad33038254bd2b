"""Counts the epsilon of a run as its coordinator sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from consortia.dashboard.background import Background
from consortia.reports.live_runs import LiveParticipant, Run
from privacy.accounting import epsilon
from privacy.events import PoissonGaussian

#: Epsilon is counted for at most so many numbers of rounds of a run; in between the next larger one holds.
_STEPS = 25
#: Of the privacy loss distribution: rounded up, so a coarse grid overstates.
_GRID = 1e-3


@dataclass(frozen=True)
class Spent:
    """An upper bound on what one participant spent in one run; None while it is not known.

    Attributes
    ----------
    rounds : int
        Updates that it counts, at least those taken so far.
    """

    epsilon: float | None
    rounds: int


class Spending:
    """Counts in the background."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._last: dict[tuple[str, str], Spent] = {}

    def of(self, run: Run, participant: LiveParticipant) -> Spent:
        """Return what is spent so far, or the last that is known."""
        taken = len(participant.contributed)
        if run.scenario.contract.vertical is not None:  # pure, and released once
            told = participant.standing.get("noise_multiplier") is not None and participant.non_private is False
            return Spent(participant.budget if told else None, taken)
        if not taken:
            return Spent(0.0 if participant.non_private is False else None, 0)
        rounds = taken if run.status in {"completed", "failed"} else self._rounded(run, participant, taken)
        value = self._epsilon(run.event(participant, rounds), participant.delta)
        key = (run.id, participant.name)
        if value is not None:
            self._last[key] = Spent(value, rounds)
        return self._last.get(key, Spent(None, rounds))

    def curve(self, run: Run, participant: LiveParticipant) -> list[tuple[float, float, None, None]]:
        """Return epsilon by round, as far as it is counted: points of a plot."""
        counts = self._counts(run, participant)
        values = ((number, self._epsilon(run.event(participant, n), participant.delta)) for n, number in counts.items())
        return [(number, value, None, None) for number, value in values if value is not None]

    def complete(self, run: Run, participant: LiveParticipant) -> bool:
        """Return whether everything that `curve` can say is counted."""
        known = run.event(participant, 1) is not None
        return not known or len(self.curve(run, participant)) == len(self._counts(run, participant))

    def _counts(self, run: Run, participant: LiveParticipant) -> dict[int, int]:
        """Return the round after which so many updates were taken, for those numbers of updates that are counted."""
        counts = {self._rounded(run, participant, n): number for n, number in enumerate(participant.contributed, 1)}
        return {n: number for n, number in counts.items() if n <= len(participant.contributed)}

    def _rounded(self, run: Run, participant: LiveParticipant, taken: int) -> int:
        most = run.scenario.contract.of(participant.roster.industry).participations
        step = math.ceil(most / _STEPS)
        return min(most, math.ceil(taken / step) * step)

    def _epsilon(self, event: PoissonGaussian | None, delta: float) -> float | None:
        if event is None:
            return None
        return self._background.take((event, delta), None, lambda: epsilon([event], delta, grid=_GRID))[0]
