"""FedAsync, both halves.

Xie et al., "Asynchronous Federated Optimization", 2019, Algorithm 1: every reply moves the shared parameters at once,
x <- (1 - alpha_t) x + alpha_t x_new with alpha_t = alpha x s(staleness). A participant works on its loss plus
mu/2 ||x - x_received||^2 (the paper's rho), here as in FedProx: added after clipping and noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State, difference
from strategies.base import Fit, Update, number
from strategies.fedprox import FedProx
from strategies.staleness import Stale, moved

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class FedAsync(Stale):
    """Mixes each reply in as it comes.

    Parameters
    ----------
    alpha : float
        Share of a fresh reply in the mixture, in (0, 1].
    mu : float
        Strength of the proximal term; 0 is none.
    """

    alpha: float = 0.6
    mu: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        number("alpha", self.alpha, most=1.0, above=True)
        FedProx(mu=self.mu)

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`; a size has no place in a mixture of two."""
        return Fit(weights="equal", consensus=False, proximal=self.mu)

    @property
    def waits_for_step(self) -> bool:
        """No: its own reply is a step."""
        return False

    def ready(self, buffered: int, working: int, seconds: float) -> bool:
        """See `strategies.base.Asynchronous.ready`: always."""
        return True

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`; of several replies it mixes in the mean. It keeps no memory."""
        scales = [self.alpha * self.staleness_weight(u.staleness) / len(updates) for u in updates]
        return dict(moved(current, [difference(u.state, current) for u in updates], updates, scales)), {}

    def attach(self, optimizer: torch.optim.Optimizer, received: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
        """See `strategies.base.LocalHalf.attach`."""
        if self.mu:
            FedProx(mu=self.mu).attach(optimizer, received)

    def fits_learning_rate(self, learning_rate: float) -> None:
        """See `strategies.base.LocalHalf.fits_learning_rate`."""
        FedProx(mu=self.mu).fits_learning_rate(learning_rate)
