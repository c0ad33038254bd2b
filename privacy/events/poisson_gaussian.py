"""DP-SGD: Gaussian noise on sums over Poisson samples of the units (Abadi et al. 2016, *Deep Learning with DP*)."""

import importlib.util
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from privacy.errors import PlanError
from privacy.events.base import RELATION, Event, check_count, check_positive
from privacy.events.gaussian import GaussianRelease

__all__ = ["PoissonGaussian"]


@cache
def _analysis() -> Any:
    """Return `opacus.accountants.analysis.rdp` from its own file.

    It needs numpy and scipy only. An import by name runs `opacus/__init__.py` first, which imports torch's distributed
    parts: two seconds of every command that shows a budget.
    """
    package = importlib.util.find_spec("opacus")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("opacus")
    file = Path(package.origin).parent / "accountants" / "analysis" / "rdp.py"
    spec = importlib.util.spec_from_file_location("_opacus_rdp", file)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(str(file))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, kw_only=True)
class PoissonGaussian(Event):
    """DP-SGD: ``steps`` Gaussian releases, each on a Poisson sample of the units.

    Parameters
    ----------
    noise_multiplier : standard deviation of the noise over the clipping norm, > 0.
    sampling_rate : probability of each unit to be in a draw, in (0, 1].
    steps : number of draws, >= 1.
    """

    kind = "poisson_gaussian"
    releases = ("update",)

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def validate(self) -> None:
        """Check the numbers."""
        check_positive("noise_multiplier", self.noise_multiplier)
        check_positive("sampling_rate", self.sampling_rate)
        if self.sampling_rate > 1:
            raise PlanError(f"sampling_rate: wanted a number in (0, 1], got {self.sampling_rate!r}")
        check_count("steps", self.steps)

    @property
    def relation(self) -> str:
        """Add or remove one unit."""
        return RELATION

    @property
    def size(self) -> int:
        """How many draws."""
        return self.steps

    def resized(self, size: int) -> "PoissonGaussian":
        """Return the same mechanism with `size` draws."""
        return PoissonGaussian(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=size,
            partition=self.partition,
            unit=self.unit,
        )

    def canonical(self) -> Event:
        """Return the Gaussian mechanism, which composes in closed form, where every unit is in every draw."""
        if self.sampling_rate == 1:
            noise = self.noise_multiplier
            return GaussianRelease(noise_multiplier=noise, count=self.steps, partition="train", unit="record")
        return super().canonical()

    def describe(self) -> str:
        """Return it in plain words."""
        return f"DP-SGD, σ {self.noise_multiplier:.3g}, q {self.sampling_rate:g}"

    def pure_epsilon(self) -> float | None:
        """Return None: no epsilon at delta = 0."""
        return None

    def pld(self, grid: float) -> Any:
        """Return the distribution of one draw, convolved `steps` times."""
        from privacy.events._gaussian_losses import gaussian_losses

        return gaussian_losses(self.noise_multiplier, self.sampling_rate, grid).self_compose(self.steps)

    def loss_span(self) -> float:
        """Return mean and some deviations of the loss, and its truncated tails.

        The mean is the least of what is known of the divergence of a draw: below chi squared, and below a draw that
        has the unit for certain, as often as the unit is in it.
        """
        noise, rate, size = self.noise_multiplier, self.sampling_rate, self.steps
        whole = 1 / noise**2
        mean = min(rate**2 * math.expm1(min(whole, 700.0)), rate * whole / 2)
        return size * mean + 20 * math.sqrt(size) * rate / noise + whole

    def rdp(self, orders: tuple[int, ...]) -> tuple[float, ...]:
        """Return the bound of Mironov, Talwar & Zhang 2019, *Renyi DP of the Sampled Gaussian Mechanism*, by Opacus."""
        rate, noise = self.sampling_rate, self.noise_multiplier
        values = _analysis().compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=list(orders))
        return tuple(float(value) * self.steps for value in values)

    def sampled_gaussian(self) -> tuple[float, float, int]:
        """Return sigma, rate and steps."""
        return float(self.noise_multiplier), float(self.sampling_rate), self.steps
