"""Laplace noise added to a vector of bounded L1 sensitivity (Dwork, McSherry, Nissim & Smith 2006)."""

import math
from dataclasses import dataclass
from typing import Any

from privacy.events.base import RELATION, AddedNoise

__all__ = ["LaplaceRelease"]


@dataclass(frozen=True, kw_only=True)
class LaplaceRelease(AddedNoise):
    """``count`` releases with Laplace noise; ``noise_multiplier`` is the scale b / L1 sensitivity."""

    kind = "laplace"
    releases = ("metrics", "size", "loss")

    @property
    def relation(self) -> str:
        """Add or remove one unit."""
        return RELATION

    def describe(self) -> str:
        """Return it in plain words."""
        return f"Laplace, b {self.noise_multiplier:.3g}"

    def pure_epsilon(self) -> float | None:
        """Return None: at a delta > 0 many releases cost less than count / b, so they are counted by distribution."""
        return None

    def pld(self, grid: float) -> Any:
        """Return the distribution of one release, convolved `count` times."""
        from dp_accounting.pld import privacy_loss_distribution

        one = privacy_loss_distribution.from_laplace_mechanism(
            parameter=self.noise_multiplier, value_discretization_interval=grid
        )
        return one.self_compose(self.count)

    def loss_span(self) -> float:
        """Return the loss's range, or some deviations of it where these are less."""
        return min(self.count, 10 * math.sqrt(self.count)) * 2 / self.noise_multiplier

    def rdp(self, orders: tuple[int, ...]) -> tuple[float, ...]:
        """Return the exact divergence of each release (Mironov 2017, *Renyi DP*, Prop. 6)."""
        import numpy as np

        noise = self.noise_multiplier
        return tuple(
            float(
                np.logaddexp(math.log(a / (2 * a - 1)) + (a - 1) / noise, math.log((a - 1) / (2 * a - 1)) - a / noise)
                / (a - 1)
            )
            * self.count
            for a in orders
        )
