"""Cyclic weight transfer.

Chang et al., "Distributed deep learning networks among institutions for medical imaging", Journal of the American
Medical Informatics Association 2018: the model visits one participant after the other, cycle after cycle, and each
trains on from where the one before it stopped. One visit is a round here; the order is that of the names.

A participant that does not answer in its turn is passed over, and the next one is asked in the same round.
(FLamby's Cyclic hands no model on: its clients train apart.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State, weighted_mean
from strategies.base import Fit, Simple, Update

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Cyclic(Simple):
    """The parameters of whoever had its turn."""

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`; a "sum" of one reply protects nobody."""
        return Fit()

    def order(self, number: int, names: Sequence[str]) -> list[str]:
        """See `strategies.base.TakesTurns.order`: the names in a circle, from that round's own on."""
        first = (number - 1) % len(names)
        return [*names[first:], *names[:first]]

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`: the mean of one reply; it keeps no memory."""
        return weighted_mean([u.state for u in updates], [u.weight for u in updates]), {}
