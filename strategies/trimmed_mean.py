"""Trimmed mean.

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018, Definition 2
and Algorithm 1 (option II), with beta = attackers / participants.

Meaningful for n >= 2f + 1 participants with f attackers: without the f smallest and the f largest values of a
coordinate, what is left lies within the range of the honest values. One vote each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.median import Median
from strategies.streaming import mean_of

if TYPE_CHECKING:
    from torch import Tensor


def trimmed(values: Sequence[Tensor], cut: int) -> Tensor:
    """Return the mean of sorted tensors (k,) without the first and the last `cut`."""
    return mean_of(values[cut : len(values) - cut])


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Median):
    """The mean of each coordinate without its `attackers` smallest and largest values."""

    def pick(self, values: Sequence[Tensor]) -> Tensor:
        """See `strategies.median.Median.pick`."""
        return trimmed(values, self.attackers)
