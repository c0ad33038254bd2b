"""Stops a run at its budget, and a data set at its lifetime budget.

**Run.** A run's releases are of the kinds its plan lists for a round, v, and for once, w. A further attempt is
allowed while everything taken so far, this attempt included, is contained in k times v and w for a k with PLD
epsilon(k v + w) within the run's allowance (w is refused a second time); each partition has its own k, for
partitions compose in parallel. The largest such k is fixed by the plan, so whatever the order and the number of
attempts that failures bring about, the run is part of one composition fixed in advance (of mechanisms interleaved
adaptively: Vadhan & Zhang 2023, *Concurrent Composition Theorems for Differential Privacy*; stopping early is
post-processing). It is (epsilon_i, delta_i)-DP.

**Lifetime.** Later plans depend on earlier results, so numeric composition is not proved. Rules that are:

* A: the allowances (epsilon_i, delta_i) of the runs that released anything sum to at most (E, D). This is
  basic composition with adaptively chosen parameters (Rogers, Roth, Ullman & Vadhan 2016, *Privacy Odometers
  and Filters*, Theorem 3.6 and its basic filter).
* B_a, one for each order a of `RDP_ORDERS`: the Renyi bounds of all events, of every run, sum at order a to
  at most the r_a for which (a, r_a)-RDP is (E, D / 100 / number of orders)-DP. This is a Renyi filter
  (Feldman & Zrnic 2021, *Individual Privacy Accounting via a Renyi Filter*, Theorem 4.3).

A step is allowed while at least one rule holds after it. **The guarantee is (E, 1.01 D)**: D of rule A and a
hundredth for the rules B, openly on top, so that four runs of (1, 1e-5) fill a lifetime of (4, 4e-5) exactly.

Proof that "at least one" is sound. Let M be the interaction under this stop, and for a rule r let M_r be the
same interaction stopped before the first step after which r fails; M_r is (E, d_r)-DP by the theorem of r.
All rules only ever go from holding to failing. Let S be a set of transcripts, and S_r those of S for which r
is the first rule (in a fixed order) that holds at the end; it then held throughout, so that M and M_r give
every transcript of S_r the same probability. For neighbours P, Q of data:
P_M(S) = sum_r P_{M_r}(S_r) <= sum_r (e^E Q_{M_r}(S_r) + d_r) = e^E Q_M(S) + sum_r d_r, and sum_r d_r = 1.01 D.
A rule reads only plans and events, which are functions of what was released.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from consortia_plugins.arguments import named_arguments
from privacy.accounting import RDP_ORDERS, epsilon, merge, rdp, rdp_to_epsilon
from privacy.errors import PlanError, ReleaseRefusedError
from privacy.events import Event, check_known, event_size, resized
from privacy.plans import Budget, RunPlan

__all__ = ["LifetimeFilter", "plan_bounds", "run_epsilon_bound"]

# Four times 1e-5 is 4.0000000000000003e-5 in floating point: forgive sums of decimals that, and no more.
_ROUNDING: Final = 1 + 1e-9
_RENYI_SHARE: Final = 0.01


class LifetimeFilter:
    """Decides whether a data set may pay for another release, ever.

    Parameters
    ----------
    budget : (E, D) for life. An infinite E is for data that may leave without noise.
    """

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    @property
    def guarantee(self) -> Budget:
        """What the filter proves: (E, 1.01 D)."""
        return Budget(self.budget.epsilon, self.budget.delta * (1 + _RENYI_SHARE))

    def left(self, allowances: Iterable[Budget]) -> Budget:
        """What rule A leaves for a new run after runs with these allowances (conservative)."""
        epsilons, deltas = _sums(allowances)
        if math.isinf(self.budget.epsilon):
            return Budget(math.inf, max(self.budget.delta - deltas, 0.0))
        return Budget(max(self.budget.epsilon - epsilons, 0.0), max(self.budget.delta - deltas, 0.0))

    def allows(self, allowances: Iterable[Budget], events: Iterable[Event]) -> bool:
        """Whether a rule holds for these runs (each that released, the asking one included) and all events.

        Raises
        ------
        UnknownEventError
            For an event that is not registered, whichever rule would allow it.
        """
        events = list(events)
        for event in events:
            check_known(event)
        if math.isinf(self.budget.epsilon):
            return True
        epsilons, deltas = _sums(allowances)
        if epsilons <= self.budget.epsilon * _ROUNDING and deltas <= self.budget.delta * _ROUNDING:
            return True
        delta = self.budget.delta * _RENYI_SHARE / len(RDP_ORDERS)
        if delta <= 0:
            return False
        bounds = zip(rdp(events, RDP_ORDERS), RDP_ORDERS, strict=True)
        return any(rdp_to_epsilon(float(bound), order, delta) <= self.budget.epsilon for bound, order in bounds)


def _sums(allowances: Iterable[Budget]) -> tuple[float, float]:
    pairs = list(allowances)
    return math.fsum(pair.epsilon for pair in pairs), math.fsum(pair.delta for pair in pairs)


def _sizes(events: Iterable[Event], partition: str) -> dict[Event, int]:
    return {
        resized(event, 1): event_size(event)
        for event in merge(event for event in events if event.partition == partition)
    }


def _spent(plan: RunPlan, partition: str, times: int) -> float:
    """Epsilon of `times` rounds and of the releases that are made once. These count before they are made: set aside."""
    rounds = [resized(kind, size * times) for kind, size in _sizes(plan.round_events(), partition).items()]
    once = [event for event in plan.once_events if event.partition == partition]
    return epsilon([*rounds, *once], plan.allowance.delta)


@named_arguments(PlanError)
def plan_bounds(plan: RunPlan) -> dict[str, float]:
    """Epsilon of the whole plan by partition; a partition that leaves something without noise has none."""
    partitions = {event.partition for event in (*plan.round_events(), *plan.once_events)}
    bounds = {name: _spent(plan, name, plan.rounds) for name in partitions if not plan.non_private}
    return {name: bound for name, bound in bounds.items() if math.isfinite(bound)}


@named_arguments(PlanError)
def run_epsilon_bound(plan: RunPlan, events: Sequence[Event], bounds: Mapping[str, float] | None = None) -> float:
    """Epsilon, at the plan's delta, of the smallest multiple of a round that contains `events`.

    While the plan as a whole fits its allowance, and `events` within the plan, that is the plan's own epsilon.

    Parameters
    ----------
    bounds : what `plan_bounds` gave when the run was opened, so that nothing is counted twice.

    Raises
    ------
    ReleaseRefusedError
        For a mechanism that the plan does not list, or a second release of one that it lists once: plans are fixed
        before the first release.
    """
    worst = 0.0
    for partition in {event.partition for event in events}:
        per_round, once = _sizes(plan.round_events(), partition), _sizes(plan.once_events, partition)
        multiple = 1
        for event in merge(event for event in events if event.partition == partition):
            kind = resized(event, 1)
            if kind in once:
                if event_size(event) > once[kind]:
                    raise ReleaseRefusedError(f"run {plan.run_id!r}: what its plan lists once was taken already")
                continue
            size = per_round.get(kind)
            if size is None:
                raise ReleaseRefusedError(
                    f"run {plan.run_id!r}: a {type(event).__name__} of the {partition} partition is not in its plan, "
                    "which is fixed before the first release; list it in other_events"
                )
            multiple = max(multiple, -(-event_size(event) // size))

        whole = (bounds or {}).get(partition) if multiple <= plan.rounds else None
        bound = _spent(plan, partition, max(multiple, plan.rounds)) if whole is None else whole
        if multiple < plan.rounds and not within(bound, plan):
            bound = _spent(plan, partition, multiple)
        worst = max(worst, bound)
    return worst


def within(spent: float, plan: RunPlan) -> bool:
    """Whether `spent` is within the run's allowance, up to the last digits of the accountant."""
    return spent <= plan.allowance.epsilon + 1e-9
