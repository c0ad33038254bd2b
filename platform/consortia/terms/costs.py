"""What a participant's updates cost, from public numbers: the noise that a budget needs, and the event of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar

from consortia.learners.blocks.noise import solve
from consortia.terms.contract import Contract, planned_rounds, spare
from consortia.terms.contract_fields import IndustryTerms
from privacy.accounting import solve_noise_multiplier
from privacy.events import Event, PoissonGaussian

__all__ = ["noise_multiplier", "noise_plan", "plan_event", "remembered", "updates_event"]

Solve = Callable[[], float]
#: Where a command that only shows a plan looks noise up first (`consortia.planning.known.shown`). It is None in every
#: run and at every participant: there noise is solved.
remembered: ContextVar[Callable[[Sequence[object], Solve], float] | None] = ContextVar("remembered", default=None)


def noise_plan(
    contract: Contract, rules: IndustryTerms, epsilon: float, delta: float, besides: tuple[Event, ...] = ()
) -> list[object]:
    """Return all that decides the noise multiplier besides the code, as JSON has it."""
    numbers = [epsilon, delta, rules.sampling_rate, rules.local_steps, planned_rounds(contract), spare(contract)]
    sums = contract.noisy_sums
    return ["noise", numbers, None if sums is None else repr(sums.shares), [event.to_json() for event in besides]]


def noise_multiplier(
    contract: Contract, rules: IndustryTerms, epsilon: float, delta: float, besides: tuple[Event, ...] = ()
) -> float:
    """Return the noise multiplier with which the updates of a whole run, and `besides`, cost (epsilon, delta).

    Of a learner of noisy sums it is z, that of its blocks together (`consortia.learners.blocks.noise`).
    """

    def solved() -> float:
        if contract.noisy_sums is not None:
            return solve(contract.noisy_sums.shares, epsilon, delta, spare(contract))
        return solve_noise_multiplier(
            epsilon=epsilon,
            delta=delta,
            sampling_rate=rules.sampling_rate,
            steps=rules.local_steps * planned_rounds(contract),
            besides=besides,
        )

    look_up = remembered.get()
    return solved() if look_up is None else look_up(noise_plan(contract, rules, epsilon, delta, besides), solved)


def plan_event(contract: Contract, rules: IndustryTerms, multiplier: float) -> PoissonGaussian:
    """Return what the updates of a whole run cost as they are planned, spare attempts of secure sums included."""
    if contract.noisy_sums is not None:
        multiplier /= contract.noisy_sums.shares.planned(spare(contract)) ** 0.5
    event = updates_event(contract, rules, multiplier, contract.rounds)
    return event if contract.noisy_sums is not None else event.resized(planned_rounds(contract) * rules.local_steps)


def updates_event(
    contract: Contract,
    rules: IndustryTerms,
    multiplier: float,
    rounds: int,
    unit: str = "record",
    messages: Sequence[int] = (),
) -> PoissonGaussian:
    """Return what the updates of `rounds` rounds cost at a noise multiplier.

    Parameters
    ----------
    messages : sequence of int
        Which messages of a learner of noisy sums these were. Without it they count as the costliest.
    """
    steps = rules.local_steps * rounds
    if contract.noisy_sums is not None:
        # Gaussian blocks are exactly one Gaussian mechanism (`consortia.learners.blocks.noise`).
        steps, multiplier = 1, multiplier / contract.noisy_sums.shares.taken(rounds, messages) ** 0.5
    return PoissonGaussian(
        noise_multiplier=multiplier, sampling_rate=rules.sampling_rate, steps=steps, partition="train", unit=unit
    )
