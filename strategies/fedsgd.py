"""FedSGD: participants send gradients, and the coordinator takes one step.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
section 2: theta <- theta - alpha x sum_k (n_k / n) g_k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State, step, weighted_mean
from strategies.base import Fit, Simple, Update

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FedSGD(Simple):
    """theta <- theta - server_learning_rate x weighted mean of the participants' gradients."""

    server_learning_rate: float

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`."""
        return Fit(sum_only=True, consensus=False, gradient=True, plain_steps=True, server_learning_rate=True)

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`; FedSGD keeps no memory."""
        mean = weighted_mean([u.state for u in updates], [u.weight for u in updates])
        return step(current, mean, self.server_learning_rate), {}
