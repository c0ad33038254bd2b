"""Tensors by name: what a module holds, and whether others may take its place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["LARGEST", "State", "check_like", "frozen_names", "load_state", "state_of"]

#: No honest parameter is larger; a larger one overflows in float32 and would stop everybody who gets it.
LARGEST = 1e6
State = dict[str, Tensor]


def state_of(module: nn.Module) -> State:
    """Return a detached copy of parameters and buffers by name."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def frozen_names(module: nn.Module) -> set[str]:
    """Return every name of a parameter that does not train; one that two layers share has two names."""
    named = module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if not parameter.requires_grad}


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into the module; names, shapes and dtypes must fit exactly.

    Raises
    ------
    ValueError
        Naming the parameter, the wanted and the got shape or dtype.
    """
    own = module.state_dict()
    check_like({name: own[name] for name in state if name in own}, state)
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def check_like(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless `got` has the names, shapes and dtypes of `wanted`, and finite numbers."""
    if missing := sorted(set(wanted) - set(got)):
        raise ValueError(f"parameters missing: {', '.join(missing)}")
    if extra := sorted(set(got) - set(wanted)):
        raise ValueError(f"parameters nobody asked for: {', '.join(extra)}")
    for name, tensor in wanted.items():
        other = got[name]
        if other.shape != tensor.shape:
            raise ValueError(f"{name}: wanted shape {tuple(tensor.shape)}, got {tuple(other.shape)}")
        if other.dtype != tensor.dtype:
            raise ValueError(f"{name}: wanted dtype {tensor.dtype}, got {other.dtype}")
        if other.is_floating_point() and not bool(torch.isfinite(other).all()):
            raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity")
        if other.is_floating_point() and other.numel() and float(other.abs().max()) > LARGEST:
            raise ValueError(
                f"{name}: wanted numbers up to {LARGEST:g} in size, got a larger one (diverged? lower learning_rate)"
            )
