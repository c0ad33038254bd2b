"""q-FedAvg: gives more weight to participants with a higher loss.

Li et al., "Fair Resource Allocation in Federated Learning", ICLR 2020, Algorithm 2 (q-FedAvg) for the objective
sum_k p_k F_k^(q+1) / (q+1). With the loss F_k of the received theta, L = 1 / learning rate and theta_k the reply:

    d_k = L (theta - theta_k)
    theta <- theta - sum_k p_k F_k^q d_k / sum_k p_k (q F_k^(q-1) ||d_k||^2 + L F_k^q)

q = 0 is FedAvg. F_k is a function of rows, so it is a release beside the update: the contract must release metrics and
the participant must be non-private. It is clipped to the public `loss_bound`, without which a claimed loss of 1e12
would be a weight of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State, weighted_mean
from strategies.base import Fit, Simple, Update, number
from strategies.vectors import centred, float_names

if TYPE_CHECKING:
    from torch import Tensor

#: Keeps 0^(q-1) finite; Flower adds the same.
_TINY = 1e-10


@dataclass(frozen=True, kw_only=True)
class QFedAvg(Simple):
    """One step of q-FedAvg.

    Parameters
    ----------
    q : float
        >= 0; the larger, the more the worst-served count.
    loss_bound : float
        Losses are clipped to [0, loss_bound] by those who release them, and refused beyond.
    """

    q: float = 1.0
    loss_bound: float = 10.0

    def __post_init__(self) -> None:
        number("q", self.q)
        number("loss_bound", self.loss_bound, above=True)

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`."""
        return Fit(consensus=False, loss=True, plain_steps=True)

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`; it keeps no memory. Integer buffers take the weighted mean."""
        import torch

        if any(not 0 <= u.loss <= self.loss_bound for u in updates):
            raise ValueError(f"loss: wanted numbers from 0 to loss_bound = {self.loss_bound:g}")
        if any(not 0 < u.learning_rate < math.inf for u in updates):
            raise ValueError("learning_rate: wanted a finite number > 0")
        changes = centred(current, [u.state for u in updates])
        step = torch.zeros_like(changes[0])
        scale = 0.0
        for u, change in zip(updates, changes, strict=True):
            loss, lipschitz = u.loss + _TINY, 1 / u.learning_rate
            gradient = -lipschitz * change
            step += u.weight * loss**self.q * gradient
            slope = self.q * loss ** (self.q - 1) * float(gradient.square().sum())
            scale += u.weight * (slope + lipschitz * loss**self.q)
        new = weighted_mean([u.state for u in updates], [u.weight for u in updates])
        start = 0
        for name in float_names(current):
            tensor = current[name]
            part = step[start : start + tensor.numel()].reshape(tensor.shape) / scale
            new[name] = (tensor.double() - part).to(tensor.dtype)
            start += tensor.numel()
        return new, {}
