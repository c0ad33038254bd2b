"""Strategies by name."""

from __future__ import annotations

from strategies.base import Strategy
from strategies.fedavg import FedAvg
from strategies.fedsgd import FedSGD

NAMES = ("fedavg", "fedsgd")


def make(name: str, *, server_learning_rate: float, server_momentum: float) -> Strategy:
    """Return the strategy of a contract.

    Raises
    ------
    ValueError
        When nobody knows the name.
    """
    if name == "fedavg":
        return FedAvg(server_learning_rate=server_learning_rate, server_momentum=server_momentum)
    if name == "fedsgd":
        return FedSGD(learning_rate=server_learning_rate)
    raise ValueError(f"strategy: wanted one of {', '.join(NAMES)}, got {name!r}")
