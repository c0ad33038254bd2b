"""Computes the claimed mechanism a second time: plain autograd, unit by unit, in float64.

Nothing here uses `privacy`: a mistake there must not hide itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients import registry
from clients.dataset import Table
from clients.models import FederatedModule, loss_for
from consortia.terms.contract import Contract
from consortia.terms.scopes import build_module, load_state
from strategies.base import LocalHalf

Array = NDArray[np.float64]


def parameter_names(contract: Contract, industry: str) -> list[tuple[str, int]]:
    """Names and sizes of all trainable parameters, private ones included, in the module's order."""
    return [(name, p.numel()) for name, p in build_module(contract, industry).named_parameters() if p.requires_grad]


def flat(state: Mapping[str, Tensor], names: Iterable[str]) -> Array:
    """Return the named tensors as one vector."""
    vector: Array = torch.cat([state[name].detach().double().flatten() for name in names]).numpy()
    return vector


def _module(contract: Contract, industry: str, state: Mapping[str, Tensor]) -> FederatedModule:
    module = build_module(contract, industry)
    load_state(module, state)
    return module.double()


def unit_gradients(contract: Contract, industry: str, state: Mapping[str, Tensor], table: Table) -> Array:
    """Summed gradient of the rows of each unit, shape (n_units, n_parameters)."""
    module = _module(contract, industry, state)
    loss = loss_for(registry.get(industry).schema.target)
    parameters = [p for p in module.parameters() if p.requires_grad]
    out = []
    for unit in range(table.n_units):
        rows = (table.unit_index == unit).nonzero().flatten()
        inputs = {
            name: tensor[rows].double() if tensor.is_floating_point() else tensor[rows]
            for name, tensor in table.inputs.items()
        }
        total = loss(module(inputs), table.target[rows]).sum()
        gradients = torch.autograd.grad(total, parameters)
        out.append(torch.cat([g.flatten() for g in gradients]).numpy())
    return np.array(out).reshape(table.n_units, -1)


def unit_terms(contract: Contract, industry: str, state: Mapping[str, Tensor], table: Table) -> dict[str, Array]:
    """Norms of the rows' gradients, added up in each unit (n_units,), by layer."""
    module = _module(contract, industry, state)
    loss = loss_for(registry.get(industry).schema.target)
    named = [(name.rpartition(".")[0], p) for name, p in module.named_parameters() if p.requires_grad]
    terms = {layer: np.zeros(table.n_units) for layer, _ in named}
    for row, unit in enumerate(table.unit_index.tolist()):
        inputs = {
            name: tensor[row : row + 1].double() if tensor.is_floating_point() else tensor[row : row + 1]
            for name, tensor in table.inputs.items()
        }
        gradients = torch.autograd.grad(loss(module(inputs), table.target[row : row + 1]).sum(), [p for _, p in named])
        squares = dict.fromkeys(terms, 0.0)
        for (layer, _), gradient in zip(named, gradients, strict=True):
            squares[layer] += float(gradient.square().sum())
        for layer, square in squares.items():
            terms[layer][unit] += math.sqrt(square)
    return terms


def clipped(gradients: Array, clip: float, terms: Array | None = None) -> Array:
    """Each row shortened to the norm `clip`, over all parameters jointly.

    `terms` (n,) are the root of the squared `unit_terms` of the layers, where a unit may have several rows: 2^-10 of
    them count as norm, too.
    """
    norms = np.linalg.norm(gradients, axis=1) + (0.0 if terms is None else 2.0**-10 * terms)
    shortened: Array = gradients * np.minimum(1.0, clip / np.maximum(norms, 1e-300))[:, None]
    return shortened


def noise_deviation(sigma: float, clip: float, dimension: int, noise: str) -> float:
    """Return the deviation of one step's noise on a sum: sigma x C, or what `privacy.secure_noise` states for its grid.

    There C stands for C (1 + 2^-11 + 2^-13) + g sqrt(d), the room for rounding, with the grid's step g the largest
    power of two up to C / (1024 sqrt(d)).
    """
    if noise == "float":
        return sigma * clip
    step = 2.0 ** math.floor(math.log2(clip / (1024 * math.sqrt(dimension))))
    return sigma * (clip * (1 + 2.0**-11 + 2.0**-13) + step * math.sqrt(dimension))


@dataclass(frozen=True)
class Response:
    """How the public optimizer turns noisy gradients g_1..g_T into parameters: zero + sum_t weights[t] * g_t.

    Attributes
    ----------
    zero : ndarray (n_parameters,)
        The parameters after the round when every gradient is 0 (weight decay and proximal terms act all the same).
    weights : ndarray (steps, n_parameters)
    """

    zero: Array
    weights: Array

    @property
    def energy(self) -> Array:
        """sum_t weights[t]^2, shape (n_parameters,): what turns the variance of a step's noise into the release's."""
        energy: Array = np.square(self.weights).sum(axis=0)
        return energy


def response(contract: Contract, industry: str, state: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Response:
    """Measure the optimizer that the contract names; it is linear and the same at every step.

    Parameters
    ----------
    state : all parameters before the round.
    shared : those that the coordinator sent, to which a local half (FedProx) anchors.
    """
    rules = contract.industries[industry]
    strategy = contract.strategy.strategy()
    rate = 1.0 if strategy.fit.gradient else rules.learning_rate

    def play(impulse: float) -> tuple[Array, list[Array]]:
        module = _module(contract, industry, state)
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(
            [p for _, p in named], lr=rate, momentum=rules.momentum, weight_decay=rules.weight_decay
        )
        if isinstance(strategy, LocalHalf):
            sent: list[tuple[nn.Parameter, Tensor]] = [
                (p, shared[name].double()) for name, p in named if name in shared
            ]
            strategy.attach(optimizer, sent)
        trajectory = []
        for step in range(rules.local_steps):
            for _, parameter in named:
                parameter.grad = torch.full_like(parameter, impulse if step == 0 else 0.0)
            optimizer.step()
            trajectory.append(np.concatenate([p.detach().numpy().ravel().copy() for _, p in named]))
        return trajectory[-1], trajectory

    zero, quiet = play(0.0)
    _, kicked = play(1.0)
    # An impulse at step t has T - t steps left to act: the trajectory of the first, read backwards.
    weights = np.array([after - before for after, before in zip(kicked, quiet, strict=True)])[::-1]
    return Response(zero, weights)
