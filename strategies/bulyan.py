"""Bulyan.

El Mhamdi et al., "The Hidden Vulnerability of Distributed Learning in Byzantium", ICML 2018, section 4 (Bulyan of
Krum). Krum is asked n - 2f times, each time without the updates that it chose before; of the chosen, each coordinate
is the mean of the n - 4f values nearest to their median. The second step bounds what one coordinate can carry, which
a distance in many coordinates does not see.

Every call of Krum sums over n - f - 2 neighbours, or all that are left. Counted by the shrinking number that is left
the last calls would see f - 1 neighbours only, and f attackers who send the same would be each other's nearest.

Meaningful for n >= 4f + 3 participants with f attackers (section 4). One vote each. Flower's Bulyan scores once and
takes the n - 2f best: the same choice as long as no score depends on who left, so it may differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State
from strategies.base import Fit, Robust, Update
from strategies.krum import distances, scores
from strategies.vectors import by_coordinate

if TYPE_CHECKING:
    from torch import Tensor


def chosen(squared: Tensor, names: Sequence[str], attackers: int, count: int) -> list[int]:
    """Return `count` updates, each the best by Krum among those that are left, in that order.

    Parameters
    ----------
    squared : (n, n), their squared distances.
    """
    left = list(range(len(squared)))
    out: list[int] = []
    while len(out) < count:
        scored = dict(zip(left, scores(squared[left][:, left], len(squared) - attackers - 2), strict=True))
        best = min(left, key=lambda i: (scored[i], names[i]))
        left.remove(best)
        out.append(best)
    return out


def nearest_to_median(rows: Sequence[Tensor], count: int) -> Tensor:
    """Return the mean of the `count` nearest to the median of each coordinate of sorted tensors (k,).

    In sorted values they stand side by side. Of two such windows that are equally wide the lower one counts.
    """
    import torch

    values = torch.stack([row.double() for row in rows])
    n = len(values)
    median = (values[(n - 1) // 2] + values[n // 2]) / 2
    far = torch.stack([(values[i : i + count] - median).abs().sum(dim=0) for i in range(n - count + 1)])
    means = torch.stack([values[i : i + count].mean(dim=0) for i in range(n - count + 1)])
    return means.gather(0, far.argmin(dim=0, keepdim=True))[0]


@dataclass(frozen=True, kw_only=True)
class Bulyan(Robust):
    """The mean of what is nearest to the median, of those that Krum chooses one after the other."""

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`."""
        return Fit(weights="equal", at_least=3, per_attacker=4)

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`; it keeps no memory."""
        self.check_enough(len(updates))
        squared = distances(current, [u.state for u in updates])
        picked = chosen(squared, [u.participant for u in updates], self.attackers, len(updates) - 2 * self.attackers)
        states = [updates[i].state for i in sorted(picked)]
        return by_coordinate(current, states, lambda v: nearest_to_median(v, len(v) - 2 * self.attackers)), {}
