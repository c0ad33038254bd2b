"""What a participant's updates cost, from public numbers: the noise that a budget needs, and the event of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from consortia.learners.sums.noise import solve
from consortia.terms.contract import Contract, planned_rounds
from consortia.terms.contract_fields import IndustryTerms
from privacy.accounting import solve_noise_multiplier
from privacy.events import Event, PoissonGaussian

__all__ = ["noise_multiplier", "plan_event", "updates_event"]


def noise_multiplier(
    contract: Contract, rules: IndustryTerms, epsilon: float, delta: float, besides: tuple[Event, ...] = ()
) -> float:
    """Return the noise multiplier with which the updates of a whole run, and `besides`, cost (epsilon, delta).

    Of noisy sums it is z, that of their blocks together (`consortia.learners.sums.noise`).
    """
    if contract.noisy_sums is not None:
        return solve(contract.noisy_sums.shares, epsilon, delta, planned_rounds(contract))
    return solve_noise_multiplier(
        epsilon=epsilon,
        delta=delta,
        sampling_rate=rules.sampling_rate,
        steps=rules.local_steps * planned_rounds(contract),
        besides=besides,
    )


def plan_event(contract: Contract, rules: IndustryTerms, multiplier: float) -> PoissonGaussian:
    """Return what the updates of a whole run cost as they are planned, spare attempts of secure sums included."""
    event = updates_event(contract, rules, multiplier, contract.rounds)
    return event.resized(planned_rounds(contract) * (1 if contract.noisy_sums is not None else rules.local_steps))


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
        Which messages of noisy sums these were. Without it, one counts as the last, which costs the most.
    """
    steps = rules.local_steps * rounds
    if contract.noisy_sums is not None:
        # Gaussian blocks are exactly one Gaussian mechanism (`consortia.learners.sums.noise`).
        of = contract.noisy_sums.shares
        taken = set(messages) or ({of.messages} if rounds == 1 else set(range(1, of.messages + 1)))
        shares = math.fsum(share for message in taken for share in of.of(message))
        steps, multiplier = 1, multiplier / math.sqrt(min(shares, 1.0))
    return PoissonGaussian(
        noise_multiplier=multiplier, sampling_rate=rules.sampling_rate, steps=steps, partition="train", unit=unit
    )
