"""How often a participant may train: what the contract says about it, and what an asynchronous strategy excludes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.base import Asynchronous, Strategy, TakesTurns

if TYPE_CHECKING:
    from consortia.terms.scenario import Contract


def check_participations(contract: Contract, strategy: Strategy) -> None:
    """Raise ValueError, naming what was wanted, where a contract's strategy and the rest of it exclude each other."""
    name = contract.strategy.name
    if contract.max_participations is not None and not isinstance(strategy, Asynchronous | TakesTurns):
        raise ValueError(
            f"max_participations with an asynchronous strategy or 'cyclic' only: with {name} everybody trains in every "
            "round"
        )
    if not isinstance(strategy, Asynchronous):
        return
    if contract.evaluation.every or contract.stopping is not None:
        raise ValueError(f"evaluation.every = 0 and no [contract.stopping]: {name} has no rounds to measure between")
    if contract.strategy.average_last != 1:
        raise ValueError(f"average_last = 1: {name} has no last rounds to average")
    if contract.strategy.weighting in {"information", "noised"}:
        raise ValueError(f'weighting = "declared" or "equal": {name} compares no replies of one round')


def last_number(contract: Contract) -> int:
    """Return the largest number of a train message: a round, or a participant's own count where there are none."""
    return contract.participations if isinstance(contract.strategy.strategy(), Asynchronous) else contract.rounds
