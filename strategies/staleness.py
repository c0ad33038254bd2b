"""Weighs replies that were trained from older parameters, and takes the step from them.

Xie et al., "Asynchronous Federated Optimization", 2019, section 5.2, for the three functions s(t - tau); FedBuff
(Nguyen et al., AISTATS 2022, section 5) takes the polynomial one with exponent 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State, difference, step, weighted_mean
from strategies.base import Update, number, whole

if TYPE_CHECKING:
    from torch import Tensor

DISCOUNTS = ("constant", "polynomial", "hinge")


@dataclass(frozen=True, kw_only=True)
class Stale:
    """What asynchronous strategies share.

    Parameters
    ----------
    discount : str
        s of staleness t: "constant" 1; "polynomial" (1 + t)^-exponent; "hinge" 1 up to `hinge` steps and
        1 / (exponent (t - hinge) + 1) beyond.
    exponent, hinge : float
        See `discount`.
    max_staleness : int
        Steps behind which a reply is dropped.
    """

    discount: str = "polynomial"
    exponent: float = 0.5
    hinge: float = 0.0
    max_staleness: int = 50

    def __post_init__(self) -> None:
        if self.discount not in DISCOUNTS:
            raise ValueError(f"discount: wanted one of {', '.join(DISCOUNTS)}, got {self.discount!r}")
        for name in ("exponent", "hinge"):
            number(name, getattr(self, name), least=0.0)
        whole("max_staleness", self.max_staleness, least=0)

    @property
    def minimum_participants(self) -> int:
        """One."""
        return 1

    def staleness_weight(self, staleness: int) -> float:
        """See `strategies.base.Asynchronous.staleness_weight`."""
        if self.discount == "polynomial":
            return float((1.0 + staleness) ** -self.exponent)
        if self.discount == "hinge" and staleness > self.hinge:
            return 1.0 / (self.exponent * (staleness - self.hinge) + 1.0)
        return 1.0


def moved(current: State, changes: Sequence[State], updates: Sequence[Update], scales: Sequence[float]) -> State:
    """Return current + sum of scales x changes for floating parameters, the mean of the replies for others.

    Raises
    ------
    ValueError
        When there are no updates, or their names or shapes differ.
    """
    weights = [1.0 / len(changes)] * len(changes) if changes else []
    scaled = [
        {name: t * (scale * len(changes)) if t.is_floating_point() else t for name, t in change.items()}
        for change, scale in zip(changes, scales, strict=True)
    ]
    direction = weighted_mean(scaled, weights)
    replies = weighted_mean([u.state for u in updates], [u.weight for u in updates])
    direction |= {name: tensor for name, tensor in replies.items() if not current[name].is_floating_point()}
    return step(current, direction, -1.0)


def own_change(current: State, update: Update) -> dict[str, Tensor]:
    """Return what local training changed, in float64, from the parameters that it started from."""
    return difference(update.state, current if update.start is None else update.start)
