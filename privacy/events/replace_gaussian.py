"""Gaussian noise where neighbours differ in one replaced row (vertical mode)."""

from dataclasses import dataclass
from typing import Any

from privacy.events.base import REPLACE_ROW, AddedNoise, Event
from privacy.events.gaussian import GaussianRelease

__all__ = ["ReplaceGaussian"]


@dataclass(frozen=True, kw_only=True)
class ReplaceGaussian(AddedNoise):
    """``count`` Gaussian releases; ``noise_multiplier`` is sigma / L2 sensitivity under replacing one row.

    A sum of vectors clipped to C moves by at most 2C then: that is the sensitivity.
    """

    kind = "replace_gaussian"

    @property
    def relation(self) -> str:
        """Replace one row."""
        return REPLACE_ROW

    def canonical(self) -> Event:
        """Return the Gaussian release: over its own sensitivity, its laws are the same."""
        noise = self.noise_multiplier
        return GaussianRelease(noise_multiplier=noise, count=self.count, partition="train", unit="record")

    def describe(self) -> str:
        """Return it in plain words."""
        return f"DP training of a partner's model, σ {self.noise_multiplier:.3g}"

    def pure_epsilon(self) -> float | None:
        """Return None: no epsilon at delta = 0."""
        return None

    def pld(self, grid: float) -> Any:
        """Return the Gaussian distribution."""
        return self.canonical().pld(grid)

    def loss_span(self) -> float:
        """Return the Gaussian span."""
        return self.canonical().loss_span()

    def rdp(self, orders: tuple[int, ...]) -> tuple[float, ...]:
        """Return the Gaussian bound."""
        return self.canonical().rdp(orders)

    def sampled_gaussian(self) -> tuple[float, float, int]:
        """Return sigma, 1 and the count."""
        return float(self.noise_multiplier), 1.0, self.count
