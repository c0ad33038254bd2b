"""Low-rank adapters (LoRA) on dense layers, those of attention and of recurrent cells among them.

Hu et al. 2022, *LoRA: Low-Rank Adaptation of Large Language Models* (ICLR): a layer's weights stay as they are, and
``scale * up(down(x))`` of a small rank is added to its output. Only `down` and `up` train. The layer, the adapters and
the sum are made of dense layers, so the gradients of single rows follow the rules of any dense layer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from clients.errors import ModelError

__all__ = ["Adapted", "adapt", "freeze"]


class Adapted(nn.Module):
    """A dense layer that stays as it is, and its adapter: (n_rows, ..., inputs) -> (n_rows, ..., outputs).

    `up` starts at zero, so that the network starts as the one that it adapts.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False, device="meta").to_empty(device="cpu")
        self.up = nn.Linear(rank, base.out_features, bias=False, device="meta").to_empty(device="cpu")
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5), generator=generator)  # as torch's dense layers
        nn.init.zeros_(self.up.weight)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output and the adapter's, added."""
        out: Tensor = self.base(x) + self.up(self.down(x)) * self.scale
        return out


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Take parameters out of training by their names, in place.

    Parameters
    ----------
    patterns : sequence of str
        Names as `named_parameters` gives them, with `*` and `?` as in a shell.

    Raises
    ------
    ModelError
        A pattern fits no parameter.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        for name in _fitting(pattern, parameters, "freeze", "parameters"):
            parameters[name].requires_grad_(False)


def adapt(module: nn.Module, patterns: Sequence[str], *, rank: int, scale: float, generator: torch.Generator) -> None:
    """Put adapters on dense layers by their names, in place.

    Parameters
    ----------
    patterns : sequence of str
        Names of layers, with `*` and `?` as in a shell.
    rank : int
        Numbers between `down` and `up`; below the smaller side of every layer.
    scale : float
        What the adapter's output is multiplied by.
    generator : torch.Generator
        Where `down` starts.

    Raises
    ------
    ModelError
        A pattern fits no dense layer, or a layer is not larger than its adapter would be.
    """
    layers = {name: layer for name, layer in module.named_modules() if type(layer) is nn.Linear}
    chosen: dict[str, nn.Linear] = {}
    for pattern in patterns:
        chosen |= {name: layers[name] for name in _fitting(pattern, layers, "lora.layers", "dense layers")}
    for name, layer in chosen.items():
        least = min(layer.in_features, layer.out_features)
        if rank >= least:
            raise ModelError(
                f"lora.rank: wanted a number below {least}, the smaller side of {name}, got {rank}; "
                "leave that layer out of lora.layers, or train it whole"
            )
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, Adapted(layer, rank, scale, generator))


def _fitting(pattern: str, known: Collection[str], key: str, what: str) -> list[str]:
    found = [name for name in known if fnmatchcase(name, pattern)]
    if not found:
        raise ModelError(f"{key}: wanted names of {what} ({', '.join(known)}), got {pattern!r}, which fits none")
    return found
