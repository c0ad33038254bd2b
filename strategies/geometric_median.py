"""Geometric median.

Pillutla et al., "Robust Aggregation for Federated Learning", IEEE Transactions on Signal Processing 2022 (RFA),
computed by Weiszfeld's iteration with the exact treatment of data points of Vardi and Zhang, "The multivariate
L1-median and associated data depth", PNAS 2000.

Meaningful for n >= 2f + 1 participants with f attackers, whose weights must sum to less than one half (its
breakdown point); `consortia check` asks for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State
from strategies.base import Fit, Robust, Update
from strategies.vectors import centred, moved

if TYPE_CHECKING:
    from torch import Tensor

_ITERATIONS = 1000
_PRECISION = 1e-12


def geometric_median(points: Tensor, weights: Tensor) -> Tensor:
    """Return the point z (n_coordinates,) with the least sum_i weights_i ||z - points_i||.

    Parameters
    ----------
    points : float64 (n, n_coordinates)
    weights : float64 (n,), > 0

    Notes
    -----
    A data point k is the median iff ||sum_{i != k} w_i (p_i - p_k) / ||p_i - p_k|| || <= w_k, where equal points
    count together (Vardi and Zhang, theorem 1). Only otherwise Weiszfeld's iteration is run, from the best data
    point moved downhill; it then ends at no data point and converges linearly.
    """
    import torch

    best, best_cost, best_pull = points[0], float("inf"), torch.zeros_like(points[0])
    for point in points:
        away = points - point
        distance = away.norm(dim=1)
        here = distance == 0
        scale = torch.where(here, torch.zeros_like(weights), weights / distance.clamp_min(1e-300))
        pull = (scale[:, None] * away).sum(0)
        if float(pull.norm()) <= float(weights[here].sum()) * (1 + _PRECISION):
            return torch.as_tensor(point)
        cost = float((weights * distance).sum())
        if cost < best_cost:
            strength = 1 - float(weights[here].sum()) / float(pull.norm())
            best, best_cost, best_pull = point, cost, pull * strength / scale.sum()
    z = best + best_pull
    for _ in range(_ITERATIONS):
        distance = (points - z).norm(dim=1).clamp_min(1e-300)
        share = weights / distance
        new = (share[:, None] * points).sum(0) / share.sum()
        step = float((new - z).norm())
        z = new
        if step <= _PRECISION * float(distance.min()):
            break
    return z


@dataclass(frozen=True, kw_only=True)
class GeometricMedian(Robust):
    """The point with the least weighted sum of distances to the updates, centred on the previous model."""

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`."""
        return Fit(weights="minority", per_attacker=2)

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`; it keeps no memory."""
        import torch

        self.check_enough(len(updates))
        states = [u.state for u in updates]
        weights = torch.tensor([u.weight for u in updates], dtype=torch.float64)
        return moved(current, geometric_median(centred(current, states), weights), states), {}
