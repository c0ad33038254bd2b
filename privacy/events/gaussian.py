"""Gaussian noise added to a vector of bounded L2 sensitivity (Dwork & Roth 2014, Appendix A)."""

import math
from dataclasses import dataclass
from typing import Any

from privacy.events.base import RELATION, AddedNoise

__all__ = ["GaussianRelease"]


@dataclass(frozen=True, kw_only=True)
class GaussianRelease(AddedNoise):
    """``count`` releases with Gaussian noise; ``noise_multiplier`` is sigma / L2 sensitivity."""

    kind = "gaussian"
    releases = ("metrics", "loss", "sums", "additive", "statistics", "blocks")

    @property
    def relation(self) -> str:
        """Add or remove one unit."""
        return RELATION

    def describe(self) -> str:
        """Return it in plain words."""
        return f"Gaussian, σ {self.noise_multiplier:.3g}"

    def pure_epsilon(self) -> float | None:
        """Return None: no epsilon at delta = 0."""
        return None

    def pld(self, grid: float) -> Any:
        """Return the distribution: n equal releases are one with sigma / sqrt(n), exact and cheaper than convolving."""
        from privacy.events._gaussian_losses import gaussian_losses

        return gaussian_losses(self.noise_multiplier / math.sqrt(self.count), 1.0, grid)

    def loss_span(self) -> float:
        """Return mean and some deviations of the loss, and its truncated tails."""
        noise, size = self.noise_multiplier, self.count
        return size / (2 * noise**2) + 20 * math.sqrt(size) / noise + 1 / noise**2

    def rdp(self, orders: tuple[int, ...]) -> tuple[float, ...]:
        """Return alpha / (2 sigma^2) for each release (Mironov 2017, *Renyi DP*, Prop. 7)."""
        return tuple(a / (2 * self.noise_multiplier**2) * self.count for a in orders)

    def sampled_gaussian(self) -> tuple[float, float, int]:
        """Return sigma, 1 and the count."""
        return float(self.noise_multiplier), 1.0, self.count
