"""DP-FedAvg with a trusted coordinator: participants are the units, noise is added once (McMahan et al. 2018).

McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018: Algorithm 1 with
flat clipping, all weights 1 and the estimator f_f, whose denominator is fixed.

Formal guarantees
-----------------
One round draws every participant with the public probability q, clips the change of all parameters of a drawn one
jointly to L2 norm C, adds the changes, adds Gaussian noise of standard deviation z x C to every coordinate and divides
by the public number q x units. Under adding or removing one participant, whatever it holds or sends:

* towards those who see the models only, `rounds` of it cost
  ``PoissonGaussian(noise_multiplier=z, sampling_rate=q, steps=rounds)``;
* towards those who also know who took part, ``GaussianRelease(noise_multiplier=z)`` for every round that a
  participant took part in: no amplification;
* towards the coordinator, which sees each change, nothing is protected: epsilon is infinite.

A change that is not finite counts as 0; an empty draw is noised all the same; who was drawn and did not answer counts
as 0, and the denominator stays. The sum is float64 and the noise that of `privacy.secure_noise`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from consortia_plugins.arguments import named_arguments
from privacy.errors import PlanError
from privacy.events import GaussianRelease, PoissonGaussian, check_positive
from privacy.observation import tell
from privacy.randomness import FreshNoise, check_usable
from privacy.sampling import poisson_sample
from privacy.secure_noise import MAX_ROWS, Grid

__all__ = ["CentralPlan", "clipped", "draw", "noisy_mean"]


@named_arguments(PlanError)
@dataclass(frozen=True, kw_only=True)
class CentralPlan:
    """The public constants of a run.

    Parameters
    ----------
    noise_multiplier : z; the noise of a sum has standard deviation z x clip. 0 is for a run without noise.
    clip : L2 norm C to which one participant's change is clipped.
    sampling_rate : probability q of a participant to be in a round, in (0, 1].
    units : declared number of participants, never the counted one.
    """

    noise_multiplier: float
    clip: float
    sampling_rate: float
    units: int

    def __post_init__(self) -> None:
        check_positive("clip", self.clip)
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise PlanError(f"noise_multiplier: wanted a finite number >= 0, got {self.noise_multiplier!r}")
        if not 0 < self.sampling_rate <= 1:
            raise PlanError(f"sampling_rate: wanted a number in (0, 1], got {self.sampling_rate!r}")
        if isinstance(self.units, bool) or not 1 <= self.units <= MAX_ROWS:
            raise PlanError(f"units: wanted a whole number from 1 to {MAX_ROWS}, got {self.units!r}")

    @property
    def denominator(self) -> float:
        """The public normaliser q x units, whoever was drawn and whoever answered."""
        return self.sampling_rate * self.units

    def event(self, rounds: int, unit: str) -> PoissonGaussian:
        """What `rounds` rounds cost towards those who see the models only."""
        return PoissonGaussian(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=rounds,
            partition="train",
            unit=unit,
        )

    def event_when_known(self, rounds: int, unit: str) -> GaussianRelease:
        """What taking part in `rounds` rounds costs towards those who know it: the same noise, no amplification."""
        return GaussianRelease(noise_multiplier=self.noise_multiplier, count=rounds, partition="train", unit=unit)


def draw(participants: int, plan: CentralPlan, generator: torch.Generator) -> Tensor:
    """Return who is asked in a round, ascending: each by itself with the plan's rate, nobody or all of them perhaps."""
    check_usable(generator)
    return poisson_sample(participants, plan.sampling_rate, generator)


@named_arguments(PlanError)
def clipped(changes: Tensor, clip: float) -> Tensor:
    """Return changes (n_participants, n_coordinates) as float64, each of L2 norm `clip` at most.

    One that is not finite, or whose norm is not, becomes 0: NaN would be a release of its own.
    """
    doubled = changes.double()
    norms = torch.linalg.vector_norm(doubled, dim=1, keepdim=True)
    factors = (clip / norms).clamp(max=1.0)
    return torch.where(norms.isfinite(), doubled * factors, 0.0)


def noisy_mean(changes: Iterable[Tensor], coordinates: int, plan: CentralPlan, generator: torch.Generator) -> Tensor:
    """Return the noisy mean change (n_coordinates,), float64.

    Parameters
    ----------
    changes : one a participant that was drawn and answered, each (n_coordinates,), clipped here whatever was promised.
    generator : `fresh_generator()`, made for this round. One from a seed is for tests, and claims no epsilon.
    """
    check_usable(generator)
    total = torch.zeros(coordinates, dtype=torch.float64)
    count = 0
    for change in changes:
        total += clipped(change.view(1, -1), plan.clip)[0]
        count += 1
    if count > MAX_ROWS:
        raise PlanError(f"changes: its rounding is proved for at most {MAX_ROWS} of them, got {count}")
    if plan.noise_multiplier and isinstance(generator, FreshNoise):
        grid = Grid(plan.clip, coordinates)
        total = torch.from_numpy(grid.release(total.numpy(), plan.noise_multiplier, generator.stream))
    elif plan.noise_multiplier:
        deviation = plan.noise_multiplier * plan.clip
        tell("central", total, deviation=deviation)
        total += torch.empty(coordinates, dtype=torch.float64).normal_(0, deviation, generator=generator)
    return total / plan.denominator
