"""Decides which networks the batched products support, and stacks a shared state for them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.models import FederatedModule
from consortia.common.errors import InputError
from consortia.terms.scopes import State
from consortia.terms.tensors import frozen_names
from privacy.randomness import seeded_generator
from privacy.stacked import Dense, outputs


@dataclass(frozen=True)
class Layer:
    """A dense layer by the name of its parameters."""

    name: str
    tanh: bool


def dense_layers(module: FederatedModule, industry: str) -> list[Layer]:
    """Return the layers of a network of dense layers with tanh between them.

    Raises
    ------
    InputError
        The error names the industry and the unsupported layer.
    """
    if frozen := sorted(frozen_names(module)):
        raise InputError(
            f"--engine vectorized: industry {industry}: wanted a network that trains whole, got {frozen[0]}, which is "
            "frozen; take --engine embedded"
        )
    found: list[Layer] = []
    for name, layer in module.named_modules():
        kind = type(layer)
        if kind is nn.Linear and layer.bias is not None:
            found.append(Layer(name, tanh=False))
        elif kind is nn.Tanh and found and not found[-1].tanh:
            found[-1] = Layer(found[-1].name, tanh=True)
        elif kind not in {FederatedModule, nn.Sequential, nn.Identity}:
            raise InputError(
                f"--engine vectorized: industry {industry}: wanted dense layers with bias and tanh between them, got "
                f"{kind.__name__} ({name}); take --engine embedded"
            )
    _check(module, found, industry)
    return found


def _check(module: FederatedModule, layers: Sequence[Layer], industry: str) -> None:
    """Refuse a network that uses its layers in another way. It is tested with random parameters and rows."""
    probe, generator = copy.deepcopy(module), seeded_generator("probe")
    state = probe.state_dict()
    names = {f"{layer.name}.{part}" for layer in layers for part in ("weight", "bias")}
    equal = bool(layers) and names == set(state)
    if equal:
        with torch.no_grad():
            for tensor in state.values():
                tensor.normal_(generator=generator)
            rows = torch.randn(3, state[f"{layers[0].name}.weight"].shape[1], generator=generator)
            found = outputs(stacked(layers, state, 1), rows.unsqueeze(0))[-1][0]
            equal = torch.allclose(found, probe({"features": rows}), rtol=1e-4, atol=1e-4)
    if not equal:
        raise InputError(
            f"--engine vectorized: industry {industry}: wanted a network that calls its dense layers one after the "
            "other, got another; take --engine embedded"
        )


def stacked(layers: Sequence[Layer], state: Mapping[str, Tensor], participants: int) -> list[Dense]:
    """Return `participants` copies of one state, layer by layer."""

    def copies(tensor: Tensor) -> Tensor:
        return tensor.expand(participants, *tensor.shape).clone()

    return [
        Dense(copies(state[f"{layer.name}.weight"]), copies(state[f"{layer.name}.bias"].unsqueeze(0)), layer.tanh)
        for layer in layers
    ]


def by_name(layers: Sequence[Layer], dense: Sequence[Dense]) -> State:
    """Return the stacks, shape (n_participants, ...), by parameter."""
    out: State = {}
    for layer, one in zip(layers, dense, strict=True):
        out[f"{layer.name}.weight"] = one.weight
        out[f"{layer.name}.bias"] = one.bias.squeeze(1)
    return out
