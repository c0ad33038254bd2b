"""Counts the epsilon of a run as its coordinator sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from consortia.dashboard.background import Background
from consortia.reports.charts import Spot
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
        self._curves: dict[tuple[str, str], tuple[tuple[object, ...], list[Spot]]] = {}

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

    def curve(self, run: Run, participant: LiveParticipant) -> tuple[list[Spot], bool]:
        """Return epsilon by round, as far as it is counted, as points of a plot; and whether that is all of it."""
        counts = self._counts(run, participant)
        # Everything that the events below are made of: a curve is asked anew at each change of a page.
        told = tuple(participant.standing.get(key) for key in ("noise_multiplier", "non_private", "unit"))
        state = (*told, participant.delta, *participant.contributed[: max(counts, default=0)])
        known = self._curves.get((run.id, participant.name))
        if known is not None and known[0] == state:
            return known[1], True
        events = {number: run.event(participant, n) for n, number in counts.items()}
        asked = [(number, self._epsilon(event, participant.delta)) for number, event in events.items()]
        points: list[Spot] = [(number, value, None, None) for number, value in asked if value is not None]
        whole = len(points) == sum(event is not None for event in events.values())
        if whole:
            self._curves[run.id, participant.name] = (state, points)
        return points, whole

    def _counts(self, run: Run, participant: LiveParticipant) -> dict[int, int]:
        """Return the round after which so many updates were taken, for those numbers of updates that are counted."""
        taken = participant.contributed
        most, step = self._step(run, participant)
        counts = [
            *range(step, min(most, len(taken)) + 1, step),
            *([most] if most % step and most <= len(taken) else []),
        ]
        return {n: taken[n - 1] for n in counts}

    def _rounded(self, run: Run, participant: LiveParticipant, taken: int) -> int:
        most, step = self._step(run, participant)
        return min(most, math.ceil(taken / step) * step)

    def _step(self, run: Run, participant: LiveParticipant) -> tuple[int, int]:
        """Return how many updates there are at most, and every which of them is counted."""
        most = run.scenario.contract.of(participant.roster.industry).participations
        return most, math.ceil(most / _STEPS)

    def _epsilon(self, event: PoissonGaussian | None, delta: float) -> float | None:
        if event is None:
            return None
        return self._background.take((event, delta), None, lambda: epsilon([event], delta, grid=_GRID))[0]
