"""Krum and multi-Krum.

Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NIPS 2017, section 4
(Krum) and section 6 (Multi-Krum, the mean of the m best).

Meaningful for n >= 2f + 3 participants with f attackers (proposition 1), and for m <= n - f - 2 selected ones.
Each participant has one vote. Squared distances are taken in float64, of changes of the current model: of the
parameters themselves (Flower's way) an expanded square loses all digits once they are large
(`strategies.streaming.squared_distances`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State
from strategies.base import Fit, Robust, Update, whole
from strategies.streaming import squared_distances
from strategies.vectors import check_same, float_names, mean_and_votes

if TYPE_CHECKING:
    from torch import Tensor


def distances(current: State, states: Sequence[State]) -> Tensor:
    """Return the squared distances (n, n) between the floating parameters of `states`."""
    check_same(current, states)
    names = float_names(current)
    return squared_distances([[state[name] for name in names] for state in states], [current[name] for name in names])


def scores(squared: Tensor, neighbours: int) -> list[float]:
    """Return for each of (n, n) squared distances the sum of the `neighbours` least to others."""
    import torch

    n = len(squared)
    out = []
    for i in range(n):
        others = torch.cat([squared[i, :i], squared[i, i + 1 :]]).sort().values
        out.append(float(others[:neighbours].sum()))
    return out


def select(squared: Tensor, names: Sequence[str], attackers: int, count: int) -> list[int]:
    """Return the `count` best by score over n - attackers - 2 neighbours.

    A tie goes to the earlier name, never to the earlier reply.
    """
    scored = scores(squared, len(squared) - attackers - 2)
    return sorted(range(len(squared)), key=lambda i: (scored[i], names[i]))[:count]


@dataclass(frozen=True, kw_only=True)
class Krum(Robust):
    """The one update with the lowest score."""

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`."""
        return Fit(weights="equal", at_least=3, per_attacker=2)

    def count(self, n_updates: int) -> int:
        """How many of the best are averaged: one."""
        return 1

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`; it keeps no memory."""
        self.check_enough(len(updates))
        squared = distances(current, [u.state for u in updates])
        names = [u.participant for u in updates]
        chosen = select(squared, names, self.attackers, self.count(len(updates)))
        return mean_and_votes([updates[i].state for i in chosen]), {}


@dataclass(frozen=True, kw_only=True)
class MultiKrum(Krum):
    """The mean of the `select` updates with the lowest scores.

    Parameters
    ----------
    select : int
        m; 0 means the most that the paper allows, participants - attackers - 2.
    """

    select: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("select", self.select, least=0)

    @property
    def minimum_participants(self) -> int:
        """2f + 3, or what `select` needs."""
        return max(super().minimum_participants, self.select + self.attackers + 2)

    def count(self, n_updates: int) -> int:
        """How many of the best are averaged."""
        return self.select or n_updates - self.attackers - 2
