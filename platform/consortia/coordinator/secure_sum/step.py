"""Computes the next model from opened sums: one step with the mean gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortia.coordinator.checkpoint import Checkpoint
from consortia.terms.contract import Contract
from consortia.terms.roster import RosterParticipant
from consortia.terms.scopes import State
from consortia.terms.settle import layout
from consortia.trust.secure_sum.protocol import group_of
from strategies.base import Strategy, Update


@dataclass(frozen=True)
class OpenSum:
    """An opened sum.

    Attributes
    ----------
    names : members whose words are in the sum.
    total : the decoded sum.
    asked : how many members were asked. The shares of noise are sized for all of them.
    context : of the attempt.
    """

    names: tuple[str, ...]
    total: NDArray[np.float64]
    asked: int
    context: bytes


def step(
    contract: Contract,
    strategy: Strategy,
    state: Checkpoint,
    group: str,
    totals: Mapping[str, OpenSum],
    participants: Mapping[str, RosterParticipant],
) -> tuple[State, State]:
    """Return a group's next parameters and the strategy's memory.

    Parameters
    ----------
    totals : sums of the group's cohorts, by label.
    participants : all members, by name.
    """
    members = [participants[name] for one in totals.values() for name in one.names]
    expected = math.fsum(
        contract.industries[s.industry].sampling_rate * contract.split.training_units(s.units) for s in members
    )
    mean = torch.from_numpy(sum(one.total for one in totals.values()) / expected)
    industry = members[0].industry
    current = state.groups[group]
    parts = layout(contract, industry)[group]
    moved = _moved(strategy, current, parts, mean, contract.industries[industry].learning_rate)
    return strategy.aggregate(current, [Update("sum", moved, 1.0)], state.memory.get(group, {}))


def by_group(totals: Mapping[str, OpenSum], group: str) -> dict[str, OpenSum]:
    """Return the sums of one group of parameters, by label."""
    return {label: total for label, total in totals.items() if group_of(label) == group}


def _moved(
    strategy: Strategy,
    current: State,
    parts: Sequence[tuple[str, tuple[int, ...]]],
    mean: Tensor,
    learning_rate: float,
) -> State:
    """Return what one participant with all rows would send: the mean gradient, or one step with it."""
    moved = {}
    gradients = torch.split(mean, [math.prod(shape) for _, shape in parts])
    by_name = {name: flat.reshape(shape) for (name, shape), flat in zip(parts, gradients, strict=True)}
    for name, tensor in current.items():
        if name in by_name and strategy.fit.gradient:
            moved[name] = by_name[name].to(tensor.dtype)
        elif name in by_name:
            moved[name] = (tensor.double() - learning_rate * by_name[name]).to(tensor.dtype)
        else:
            still = strategy.fit.gradient and tensor.is_floating_point()
            moved[name] = torch.zeros_like(tensor) if still else tensor.clone()
    return moved
