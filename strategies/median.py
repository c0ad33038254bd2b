"""Coordinate median.

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018, Definition 1
and Algorithm 1 (option I).

Meaningful for n >= 2f + 1 participants with f attackers: each coordinate then lies within the range of the
honest values. One vote each; declared sizes do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State
from strategies.base import Fit, Robust, Update
from strategies.streaming import mean_of
from strategies.vectors import by_coordinate

if TYPE_CHECKING:
    from torch import Tensor


def middle(values: Sequence[Tensor]) -> Tensor:
    """Return the median of sorted tensors (k,): the mean of the two middle ones when their number is even."""
    n = len(values)
    return values[n // 2] if n % 2 else mean_of(values[n // 2 - 1 : n // 2 + 1])


@dataclass(frozen=True, kw_only=True)
class Median(Robust):
    """The median of each coordinate."""

    def pick(self, values: Sequence[Tensor]) -> Tensor:
        """Return what sorted tensors (k,) come to, coordinate by coordinate."""
        return middle(values)

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`."""
        return Fit(weights="equal", per_attacker=2)

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`; it keeps no memory."""
        self.check_enough(len(updates))
        return by_coordinate(current, [u.state for u in updates], self.pick), {}
