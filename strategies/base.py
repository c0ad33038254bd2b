"""The seam of a strategy: a frozen value with one pure function. One file per algorithm, its paper on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from strategies.arithmetic import State


@dataclass(frozen=True)
class Update:
    """One participant's validated reply for one group of parameters.

    Attributes
    ----------
    participant : str
    state : mapping of str to Tensor
        Parameters after local training, or a gradient for FedSGD.
    weight : float
        Share of the aggregate, from declared sizes; the weights of one aggregation sum to one.
    """

    participant: str
    state: State
    weight: float


class Strategy(Protocol):
    """What the coordinator's loop asks of an algorithm."""

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the next shared parameters and the strategy's next memory (moments, say).

        Parameters
        ----------
        current : mapping of str to Tensor
            The parameters that were sent out.
        updates : sequence of Update
            Validated replies, at least one.
        memory : mapping of str to Tensor
            What the last call returned; empty in round 1. It is part of every checkpoint.
        """
        ...
