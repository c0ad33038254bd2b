"""What a participant's updates cost, from public numbers: the noise that a budget needs, and the event of a run."""

from __future__ import annotations

from collections.abc import Sequence

from consortia.learners.blocks.noise import solve
from consortia.terms.contract import Contract, planned_rounds, spare
from consortia.terms.contract_fields import IndustryTerms
from privacy.accounting import solve_noise_multiplier
from privacy.events import Event, PoissonGaussian

__all__ = ["noise_multiplier", "plan_event", "updates_event"]


def noise_multiplier(
    contract: Contract, rules: IndustryTerms, epsilon: float, delta: float, besides: tuple[Event, ...] = ()
) -> float:
    """Return the noise multiplier with which the updates of a whole run, and `besides`, cost (epsilon, delta).

    Of a learner of noisy sums it is z, that of its blocks together (`consortia.learners.blocks.noise`).
    """
    if contract.noisy_sums is not None:
        return solve(contract.noisy_sums.shares, epsilon, delta, spare(contract))
    return solve_noise_multiplier(
        epsilon=epsilon,
        delta=delta,
        sampling_rate=rules.sampling_rate,
        steps=rules.local_steps * planned_rounds(contract),
        besides=besides,
    )


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
