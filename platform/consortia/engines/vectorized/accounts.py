"""Keeps one participant's account of a simulated run in memory, with the rules and events of a ledger."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from privacy.accounting import epsilon
from privacy.errors import BudgetExhaustedError
from privacy.events import Event
from privacy.filters import LifetimeFilter, plan_bounds, run_epsilon_bound, within
from privacy.ledger import Budget, Entry, RunPlan


class ScratchAccount:
    """The account that `privacy.ledger.Ledger` would hold for one run on a new data set.

    Check, then charge. `charge` checks what the ledger's reservation checks: the run's bound and the filter of the
    lifetime. It does so once for every plan and number of rounds, so a thousand equal plans cost as much as one.
    """

    def __init__(self, plan: RunPlan, lifetime: Budget) -> None:
        self._plan = plan
        self._lifetime = lifetime
        self._taken: list[tuple[int, tuple[Event, ...]]] = []

    def charge(self, round_number: int, events: tuple[Event, ...] = ()) -> None:
        """Charge one round: `events`, or without them what the plan says of every round.

        Raises
        ------
        BudgetExhaustedError
            The run's allowance, its rounds or the lifetime would be exceeded. Nothing was charged.
        """
        costs = [*self._taken, (round_number, events or self._plan.round_events())]
        times = Counter(events for _, events in costs)
        if not _allowed(self._plan, self._lifetime, tuple(times.items())):
            raise BudgetExhaustedError(f"run {self._plan.run_id!r}, round {round_number}: receive only")
        self._taken = costs

    def plan(self, run_id: str) -> RunPlan | None:
        """Return the plan of a run, or None."""
        return self._plan if run_id == self._plan.run_id else None

    def entries(self, run_id: str | None = None) -> list[Entry]:
        """Return one entry for each charged round."""
        if run_id not in {None, self._plan.run_id}:
            return []
        return [
            Entry(place, self._plan.run_id, self._plan.dataset, number, "", "committed", events, None, "")
            for place, (number, events) in enumerate(self._taken, start=1)
        ]

    def spent(self, dataset: str, delta: float) -> float:
        """Return the PLD epsilon of everything charged."""
        return epsilon([event for entry in self.entries() for event in entry.events], delta)

    def lifetime_left(self, dataset: str, lifetime: Budget) -> Budget:
        """Return what a new run after this one is certain to get."""
        return LifetimeFilter(lifetime).left([self._plan.allowance])


@lru_cache(maxsize=4096)
def _allowed(plan: RunPlan, lifetime: Budget, costs: tuple[tuple[tuple[Event, ...], int], ...]) -> bool:
    """Return whether a fresh ledger grants events so many times (see `privacy.ledger.Ledger.reserve`)."""
    if not plan.listed and sum(times for _, times in costs) > plan.rounds:
        return False
    events = [event for round_events, times in costs for event in round_events * times]
    if not plan.non_private and not within(run_epsilon_bound(plan, events, plan_bounds(plan)), plan):
        return False
    return LifetimeFilter(lifetime).allows([plan.allowance], events)
