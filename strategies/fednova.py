"""FedNova: normalised averaging for different numbers of local steps.

Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization", NeurIPS 2020,
Algorithm 1 and equation 8. With d_i = (received - theta_i) / ||a_i||_1 (the learning rate stays inside d_i):

    theta <- theta - tau_eff sum_i p_i d_i,   tau_eff = sum_i p_i ||a_i||_1

||a_i||_1 is public: the contract's local steps and momentum (`effective_steps`). Where all participants take equal
steps, as inside one industry, this is FedAvg.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State, difference, weighted_mean
from strategies.base import Fit, Simple, Update

if TYPE_CHECKING:
    from torch import Tensor


def effective_steps(steps: int, momentum: float) -> float:
    """Return ||a||_1 of `steps` heavy-ball SGD steps: (steps - b (1 - b^steps) / (1 - b)) / (1 - b)."""
    if momentum == 0:
        return float(steps)
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)


@dataclass(frozen=True, kw_only=True)
class FedNova(Simple):
    """The weighted mean of changes per effective local step, times the mean number of steps."""

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`; a secure sum would do, since steps and weights are public."""
        return Fit(sum_only=True, plain_steps=True)

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`; it keeps no memory."""
        if any(not 0 < u.steps < float("inf") for u in updates):
            raise ValueError("steps: wanted finite numbers > 0")
        mean = weighted_mean([u.state for u in updates], [u.weight for u in updates])
        if len({u.steps for u in updates}) == 1:
            return mean, {}
        total = sum(u.weight for u in updates)
        share = [u.weight / total for u in updates]
        effective = sum(p * u.steps for p, u in zip(share, updates, strict=True))
        changes = [difference(current, u.state) for u in updates]
        new = {}
        for name, tensor in current.items():
            if not tensor.is_floating_point():
                new[name] = mean[name]
                continue
            step = sum(
                (p * effective / u.steps * c[name] for p, u, c in zip(share, updates, changes, strict=True)),
                start=0.0 * tensor.double(),
            )
            new[name] = (tensor.double() - step).to(tensor.dtype)
        return new, {}
