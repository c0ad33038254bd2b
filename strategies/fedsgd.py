"""FedSGD: gradients up, one textbook step at the coordinator.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
section 2: theta <- theta - alpha x sum_k (n_k / n) g_k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from strategies.arithmetic import State, step, weighted_mean
from strategies.base import Update


@dataclass(frozen=True, kw_only=True)
class FedSGD:
    """theta <- theta - learning_rate x weighted mean of the participants' gradients."""

    learning_rate: float

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`; FedSGD keeps no memory."""
        mean = weighted_mean([u.state for u in updates], [u.weight for u in updates])
        return step(current, mean, self.learning_rate), {}
