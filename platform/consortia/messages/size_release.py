"""`weighting = "noised"`: releases the number of training units with noise, once in a run, as a weight.

Guarantees
----------
* One Laplace release (sensitivity: one unit) of the training partition, from the training account. Its epsilon is a
  public share of the run's allowance. It is set aside before sigma is solved, so both together cost the allowance.
* It is charged with the first reservation of a run, and leaves only with that reply. If that attempt is abandoned, the
  charge stays and no size leaves in this run. The coordinator then uses the declared size.
* A false claim gains nothing: the coordinator never uses more than the roster declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from consortia.terms.contract import Contract
from consortia.terms.contract_fields import IndustryTerms
from consortia.terms.costs import noise_multiplier
from privacy.egress import KINDS, Release
from privacy.errors import UnknownEventError
from privacy.events import Event, LaplaceRelease, NonPrivate
from privacy.histogram import HistogramNoise, noisy_histogram
from privacy.ledger import Ledger, RunPlan
from privacy.noise_context import NoiseContext

if TYPE_CHECKING:
    from clients.dataset import Table

#: Name of the tensor: int64, shape (1,).
SIZE = "size.units"
#: Share of the run's epsilon that is spent on the size. At epsilon = 3 the standard deviation is 4.7 units.
SHARE = 0.1


def once_events(contract: Contract, epsilon: float | None, unit: str) -> tuple[Event, ...]:
    """Return the events of the size's release; none if the contract wants no size.

    Parameters
    ----------
    epsilon : float or None
        What the run may spend; None for a non-private run.
    """
    if contract.strategy.weighting != "noised":
        return ()
    if epsilon is None:
        return (NonPrivate(what="training units", partition="train", unit=unit),)
    return (LaplaceRelease(noise_multiplier=1 / (SHARE * epsilon), partition="train", unit=unit),)


def solve_sigma(contract: Contract, rules: IndustryTerms, epsilon: float, delta: float) -> float:
    """Return the noise multiplier with which updates and size of a whole run cost (epsilon, delta) together."""
    return noise_multiplier(contract, rules, epsilon, delta, once_events(contract, epsilon, "record"))


def due(ledger: Ledger, plan: RunPlan) -> tuple[Event, ...]:
    """Return the release that is still due: all of it before the run's first reservation, nothing afterwards."""
    return () if ledger.entries(plan.run_id) else plan.once_events


def release(events: tuple[Event, ...], train: Table, context: NoiseContext) -> list[Release]:
    """Return the size with noise for the charged attempt, at least 1 (post-processing); nothing if none is due."""
    return [Release("size", {SIZE: _noised(event, train.n_units, context)}, event) for event in events]


def _noised(event: Event, units: int, context: NoiseContext) -> Tensor:
    if isinstance(event, NonPrivate):
        return torch.tensor([max(1, units)])
    if not isinstance(event, LaplaceRelease):
        raise UnknownEventError(f"size: wanted a Laplace release, got a {type(event).__name__}; nothing leaves")
    noise = HistogramNoise("laplace", event.noise_multiplier)
    cells, index = np.zeros(units, dtype=np.int64), np.arange(units, dtype=np.int64)
    counts = noisy_histogram(cells, 1, index, rows_per_unit=1, noise=noise, context=context)
    return torch.from_numpy(counts).clamp(min=1)


def take(tensors: Mapping[str, Tensor], contract: Contract, kind: str) -> tuple[dict[str, Tensor], int | None]:
    """Split a reply into its other tensors and its size; None if it has no size.

    Raises
    ------
    ValueError
        Nobody asked for a size, or it is not a valid size.
    """
    sizes = {name: tensor for name, tensor in tensors.items() if name.startswith(KINDS["size"].prefix)}
    rest = {name: tensor for name, tensor in tensors.items() if name not in sizes}
    if not sizes:
        return rest, None
    if contract.strategy.weighting != "noised" or kind != "train" or set(sizes) != {SIZE}:
        raise ValueError("size: nobody asked for one")
    if sizes[SIZE].dtype != torch.int64 or tuple(sizes[SIZE].shape) != (1,) or int(sizes[SIZE]) < 1:
        raise ValueError(f"{SIZE}: wanted one whole number >= 1")
    return rest, int(sizes[SIZE])
