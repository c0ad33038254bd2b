"""The data of the ledger: budgets, the frozen plan of a run, reservations and entries."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from consortia_plugins.arguments import named_arguments
from privacy._chain import Anchor
from privacy.accounting import check_delta
from privacy.errors import LedgerSchemaError, PlanError, PrivacyError
from privacy.events import (
    Event,
    NonPrivate,
    PoissonGaussian,
    check_count,
    check_positive,
    event_from_json,
    event_to_json,
    resized,
)
from privacy.noise_context import NoiseContext

__all__ = ["Budget", "Entry", "Reservation", "RunPlan", "plan_from_json", "plan_to_json"]


@dataclass(frozen=True)
class Budget:
    """(epsilon, delta) under adding or removing one unit; an infinite epsilon means non-private."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("delta", self.delta)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise PlanError(f"{name}: wanted a number, got {type(value).__name__}")
        if not self.epsilon >= 0:
            raise PlanError(f"epsilon: wanted a number >= 0, got {self.epsilon!r}")
        if not 0 <= self.delta < 1:
            raise PlanError(f"delta: wanted a number in [0, 1), got {self.delta!r}")


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """The public constants of one run at one participant, fixed before its first release.

    Parameters
    ----------
    run_id, dataset, contract_sha256 : what is trained, on whose name for the data, under which contract.
    unit : "record" or the column of the privacy unit.
    declared_units : public number of units; the normaliser and delta are checked against it.
    allowance : what the run may spend. Infinite epsilon if and only if `non_private`.
    noise_multiplier : sigma / clip; 0 if and only if `non_private`.
    sampling_rate, steps_per_round, rounds, clip : the DP-SGD plan.
    other_events : what one round releases besides its update (noised metrics, say), fixed in advance too.
    once_events : what the run releases once, whichever round it comes with (a noised size, say).
    listed : no update at all: `other_events` is everything, and delta may be 0. The noise multiplier is 0, or that of
        all of these together.
    """

    run_id: str
    dataset: str
    contract_sha256: str
    unit: str
    declared_units: int
    allowance: Budget
    noise_multiplier: float
    sampling_rate: float
    steps_per_round: int
    rounds: int
    clip: float
    non_private: bool
    other_events: tuple[Event, ...] = ()
    listed: bool = False
    once_events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        for name in ("run_id", "dataset", "contract_sha256", "unit"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise PlanError(f"{name}: wanted a non-empty text, got {getattr(self, name)!r}")
        check_count("rounds", self.rounds)
        noisy = self.noise_multiplier != 0
        wrong = noisy and self.non_private if self.listed else noisy == self.non_private
        if math.isinf(self.allowance.epsilon) != self.non_private or wrong:
            raise PlanError(
                "non_private: wanted an infinite epsilon and a noise multiplier of 0 exactly when it is true, got "
                f"{self.non_private}, {self.allowance.epsilon!r} and {self.noise_multiplier!r}"
            )
        if self.listed and not self.other_events:
            raise PlanError("other_events: wanted what the run releases, got none")
        if not self.non_private and self.allowance.epsilon == 0:
            raise PlanError("allowance.epsilon: wanted a number > 0, got 0")
        if self.listed:
            if self.allowance.delta:
                check_delta(self.allowance.delta, self.declared_units)
        elif not self.non_private:
            check_positive("clip", self.clip)
            check_delta(self.allowance.delta, self.declared_units)
        self._check_events()

    def _check_events(self) -> None:
        if {resized(e, 1) for e in self.once_events} & {resized(e, 1) for e in self.round_events()}:
            raise PlanError("once_events: wanted other mechanisms than those of a round, got one of these")
        for event in (*self.round_events(), *self.once_events):
            if event.unit != self.unit:
                raise PlanError(f"unit: wanted {self.unit!r} in every event of the run, got {event.unit!r}")

    def round_event(self) -> Event:
        """What one update costs."""
        if self.non_private:
            return NonPrivate(what="update", partition="train", unit=self.unit)
        return PoissonGaussian(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=self.steps_per_round,
            partition="train",
            unit=self.unit,
        )

    def round_events(self) -> tuple[Event, ...]:
        """Everything one round releases."""
        if self.listed:
            return self.other_events
        return (self.round_event(), *self.other_events)


@dataclass(frozen=True)
class Reservation:
    """Budget taken for one attempt of one round; it stays taken whatever happens next. `anchor` is its link."""

    entry: int
    run_id: str
    round: int
    key: str
    anchor: Anchor | None = None

    def noise(self, purpose: str) -> NoiseContext:
        """Return what the noise of this attempt is bound to: its message, its entry and the ledger's head."""
        if self.anchor is None:
            raise PlanError("reservation: wanted its link in the ledger's chain, got none; reserve() gives one")
        return NoiseContext(
            purpose=purpose,
            message=f"{self.run_id}/{self.round}/{self.key}",
            attempt=self.entry,
            ledger=self.anchor.head,
        )


@dataclass(frozen=True)
class Entry:
    """One line of the ledger. `state` is "reserved" (abandoned, if its process is gone) or "committed".

    With `cohort` it is charged to the units that its run claimed (`privacy.claims`), otherwise to every unit.
    """

    seq: int
    run_id: str
    dataset: str
    round: int
    key: str
    state: str
    events: tuple[Event, ...]
    reply_sha256: str | None
    created: str
    cohort: bool = False


@named_arguments(PlanError)
def plan_to_json(plan: RunPlan) -> dict[str, Any]:
    """JSON-able form of `plan`; an infinite epsilon is null."""
    record = asdict(plan)
    record["allowance"] = budget_to_json(plan.allowance)
    record["other_events"] = [event_to_json(event) for event in plan.other_events]
    if plan.once_events:
        record["once_events"] = [event_to_json(event) for event in plan.once_events]
    else:
        del record["once_events"]  # plans read as they did before there were any
    return record


def budget_to_json(budget: Budget) -> dict[str, float | None]:
    """JSON-able form of `budget`."""
    return {"epsilon": None if math.isinf(budget.epsilon) else budget.epsilon, "delta": budget.delta}


@named_arguments(PlanError)
def plan_from_json(record: dict[str, Any]) -> RunPlan:
    """Read back what `plan_to_json` wrote; LedgerSchemaError for anything else."""
    try:
        body = dict(record)
        allowance = body.pop("allowance")
        epsilon = math.inf if allowance["epsilon"] is None else allowance["epsilon"]
        others = tuple(event_from_json(event) for event in body.pop("other_events"))
        once = tuple(event_from_json(event) for event in body.pop("once_events", ()))
        budget = Budget(epsilon, allowance["delta"])
        return RunPlan(allowance=budget, other_events=others, once_events=once, **body)
    except (KeyError, TypeError, PrivacyError) as error:
        raise LedgerSchemaError(f"plan: cannot read the stored plan of a run: {error}") from error
