"""FedAvg with optional server momentum.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
Algorithm 1 (FederatedAveraging); Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for
Federated Visual Classification", 2019, section 4.3 (FedAvgM), for the server's learning rate and momentum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State, difference, step, weighted_mean
from strategies.base import Fit, Simple, Update

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FedAvg(Simple):
    """The weighted mean of the participants' parameters.

    With `server_learning_rate` eta and `server_momentum` beta: v <- beta v + (current - mean),
    next = current - eta v. eta = 1 and beta = 0 is the plain mean, taken exactly.
    """

    server_learning_rate: float = 1.0
    server_momentum: float = 0.0

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`."""
        plain = self.server_learning_rate == 1.0 and self.server_momentum == 0.0
        return Fit(sum_only=True, consensus=plain, server_learning_rate=True, server_momentum=True)

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`."""
        import torch

        mean = weighted_mean([u.state for u in updates], [u.weight for u in updates])
        if self.server_learning_rate == 1.0 and self.server_momentum == 0.0:
            return mean, {}
        pseudo_gradient = difference(current, mean)
        velocity = {
            name: tensor + self.server_momentum * memory[name]
            if name in memory and tensor.dtype == torch.float64
            else tensor
            for name, tensor in pseudo_gradient.items()
        }
        return step(current, velocity, self.server_learning_rate), velocity
