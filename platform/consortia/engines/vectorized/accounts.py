"""Keeps one participant's account of a simulated run in memory, with the rules and events of a ledger."""

from __future__ import annotations

from collections.abc import Mapping
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
        self._each = plan.round_events()
        self._taken: list[tuple[int, tuple[Event, ...]]] = []
        self._at = _start(plan, lifetime)

    def charge(self, round_number: int, events: tuple[Event, ...] = ()) -> None:
        """Charge one round: `events`, or without them what the plan says of every round.

        Raises
        ------
        BudgetExhaustedError
            The run's allowance, its rounds or the lifetime would be exceeded. Nothing was charged.
        """
        after = self._at.after(events)
        if after is None:
            raise BudgetExhaustedError(f"run {self._plan.run_id!r}, round {round_number}: receive only")
        self._taken.append((round_number, events or self._each))
        self._at = after

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


class _Charged:
    """What was charged so far, with what may follow: shared by all accounts with the same plan and events."""

    def __init__(self, plan: RunPlan, lifetime: Budget, times: Mapping[tuple[Event, ...], int]) -> None:
        self._plan, self._lifetime, self._times = plan, lifetime, times
        self._next: dict[tuple[Event, ...], _Charged | None] = {}

    def after(self, events: tuple[Event, ...]) -> _Charged | None:
        """Return the same with one charge more, or None where a ledger would refuse that."""
        if events not in self._next:
            taken = events or self._plan.round_events()
            times = {**self._times, taken: self._times.get(taken, 0) + 1}
            granted = _allowed(self._plan, self._lifetime, times)
            self._next[events] = _Charged(self._plan, self._lifetime, times) if granted else None
        return self._next[events]


@lru_cache(maxsize=4096)
def _start(plan: RunPlan, lifetime: Budget) -> _Charged:
    return _Charged(plan, lifetime, {})


def _allowed(plan: RunPlan, lifetime: Budget, times: Mapping[tuple[Event, ...], int]) -> bool:
    """Return whether a fresh ledger grants events so many times (see `privacy.ledger.Ledger.reserve`)."""
    if not plan.listed and sum(times.values()) > plan.rounds:
        return False
    events = [event for round_events, number in times.items() for event in round_events * number]
    if not plan.non_private and not within(run_epsilon_bound(plan, events, plan_bounds(plan)), plan):
        return False
    return LifetimeFilter(lifetime).allows([plan.allowance], events)
