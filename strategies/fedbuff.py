"""FedBuff, and its variant with a deadline.

Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022, Algorithm 1: a participant
trains from the parameters it got, K changes are collected, and the coordinator steps by their mean, each change first
multiplied by s(staleness) (section 5: 1 / sqrt(1 + staleness)). The paper's mean is equal; here it is weighted by
declared sizes unless `weighting = "equal"`.

`semi-sync` waits for time instead of a number: the step is made when everybody who was asked has answered, at the
latest `window_seconds` after the last one. Whoever is late counts in a later step, with its staleness. With nobody late
it is FedAvg (Stripelis et al., "Semi-Synchronous Federated Learning", 2021, for such rounds of a fixed time).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State
from strategies.base import Fit, Update, number, whole
from strategies.staleness import Stale, moved, own_change

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class _Buffered(Stale):
    server_learning_rate: float = 1.0

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`."""
        return Fit(consensus=self.server_learning_rate == 1.0, server_learning_rate=True)

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`: current + eta sum of weight s(staleness) change; no memory."""
        total = sum(u.weight for u in updates)
        scales = [self.server_learning_rate * self.staleness_weight(u.staleness) * u.weight / total for u in updates]
        return dict(moved(current, [own_change(current, u) for u in updates], updates, scales)), {}


@dataclass(frozen=True, kw_only=True)
class FedBuff(_Buffered):
    """Steps whenever `buffer_size` replies are there.

    Parameters
    ----------
    buffer_size : int
        K >= 1.
    """

    buffer_size: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("buffer_size", self.buffer_size, least=1)

    @property
    def waits_for_step(self) -> bool:
        """No: a participant goes on with the parameters of the moment."""
        return False

    def ready(self, buffered: int, working: int, seconds: float) -> bool:
        """See `strategies.base.Asynchronous.ready`."""
        return buffered >= self.buffer_size


@dataclass(frozen=True, kw_only=True)
class SemiSync(_Buffered):
    """Steps when everybody answered, or `window_seconds` after the last step.

    Parameters
    ----------
    window_seconds : float
        Longest time between two steps for which there is any reply.
    """

    window_seconds: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        number("window_seconds", self.window_seconds, above=True)

    @property
    def waits_for_step(self) -> bool:
        """Yes: one reply of a participant in each window."""
        return True

    def ready(self, buffered: int, working: int, seconds: float) -> bool:
        """See `strategies.base.Asynchronous.ready`."""
        return working == 0 or seconds >= self.window_seconds
