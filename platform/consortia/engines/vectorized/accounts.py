"""Keeps one participant's account of a simulated run in memory, with the rules and events of a ledger."""

from __future__ import annotations

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
        self._rounds: list[int] = []

    def charge(self, round_number: int) -> None:
        """Charge one round.

        Raises
        ------
        BudgetExhaustedError
            The run's allowance, its rounds or the lifetime would be exceeded. Nothing was charged.
        """
        if not _allowed(self._plan, self._lifetime, len(self._rounds) + 1):
            raise BudgetExhaustedError(f"run {self._plan.run_id!r}, round {round_number}: receive only")
        self._rounds.append(round_number)

    def plan(self, run_id: str) -> RunPlan | None:
        """Return the plan of a run, or None."""
        return self._plan if run_id == self._plan.run_id else None

    def entries(self, run_id: str | None = None) -> list[Entry]:
        """Return one entry for each charged round."""
        if run_id not in {None, self._plan.run_id}:
            return []
        return [
            Entry(place, self._plan.run_id, self._plan.dataset, number, "", "committed", self._events(), None, "")
            for place, number in enumerate(self._rounds, start=1)
        ]

    def spent(self, dataset: str, delta: float) -> float:
        """Return the PLD epsilon of everything charged."""
        return epsilon([event for entry in self.entries() for event in entry.events], delta)

    def lifetime_left(self, dataset: str, lifetime: Budget) -> Budget:
        """Return what a new run after this one is certain to get."""
        return LifetimeFilter(lifetime).left([self._plan.allowance])

    def _events(self) -> tuple[Event, ...]:
        return self._plan.round_events()


@lru_cache(maxsize=4096)
def _allowed(plan: RunPlan, lifetime: Budget, rounds: int) -> bool:
    """Return whether a fresh ledger grants `rounds` rounds of the plan (see `privacy.ledger.Ledger.reserve`)."""
    if rounds > plan.rounds:
        return False
    events = plan.round_events() * rounds
    if not plan.non_private and not within(run_epsilon_bound(plan, events, plan_bounds(plan)), plan):
        return False
    return LifetimeFilter(lifetime).allows([plan.allowance], events)
