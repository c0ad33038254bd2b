"""Trains a network at home until the loss on held-out training rows stops falling."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import nn

from clients.dataset import Table

__all__ = ["mean_loss", "set_aside", "train_until_it_stops"]

#: Share of the training units that decide when to stop.
_ASIDE = 0.15
_LEAST_FALL = 1e-5


def set_aside(train: Table, generator: torch.Generator) -> tuple[Table, Table]:
    """Return the rows to train on, and the rows of 15 % of the units, which decide when to stop. Either may be
    empty."""
    aside = torch.rand(train.n_units, generator=generator)[train.unit_index] < _ASIDE
    return train.take((~aside).nonzero().flatten()), train.take(aside.nonzero().flatten())


def mean_loss(module: nn.Module, table: Table, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> float:
    """Return the mean loss of the rows."""
    with torch.no_grad():
        return float(loss(module(table.inputs), table.target).mean())


def train_until_it_stops(
    module: nn.Module,
    epoch: Callable[[], object],
    measure: Callable[[], float],
    *,
    epochs: int,
    patience: int,
    best: float = math.inf,
) -> None:
    """Train, and leave the parameters with the lowest measured loss in `module`.

    Parameters
    ----------
    epoch : trains one epoch; measure : the loss after it.
    patience : stop after so many epochs without a lower loss.
    best : the loss before the first epoch, if the initial parameters count, too.
    """
    state, waited = copy.deepcopy(module.state_dict()), 0
    for _ in range(epochs):
        epoch()
        value = measure()
        if value < best - _LEAST_FALL:
            best, state, waited = value, copy.deepcopy(module.state_dict()), 0
        else:
            waited += 1
            if waited >= patience:
                break
    module.load_state_dict(state)
