"""Checks that a module allows per-unit clipping, before the first step.

All checks use made-up rows, so that whether they pass depends on the module and never on the data.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from privacy._rows import Loss, row_losses
from privacy.errors import PlanError

_LARGE: Final = 1e4
_ROW_BY_ROW: Final = (nn.RNNBase, nn.MultiheadAttention)
#: Layers that Opacus accepts in training mode: exactly these types, no subclass. A test asks its registry.
PLAIN: Final = frozenset(
    {
        *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
        *(nn.Identity, nn.Tanh, nn.Sigmoid, nn.ReLU, nn.GELU, nn.SiLU, nn.ELU, nn.Flatten, nn.Unflatten),
        *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
    }
)
_Tables = dict[str, Tensor]


def check_layers(module: nn.Module) -> None:
    """Refuse layers that mix rows (BatchNorm, dropout), and what Opacus refuses."""
    for name, child in module.named_modules():
        if isinstance(child, _DropoutNd) and child.p > 0:
            # Its mask comes from torch's global generator, whose state may be known: one unit less would then shift
            # the masks of all others, and the clipped sum moves by many times the clip.
            raise PlanError(
                f"module.{name}: {type(child).__name__} draws one mask for the whole batch from a generator that is "
                "not private, so one unit moves the gradients of all others; leave it out (noise regularises too)"
            )
        if isinstance(child, _BatchNorm):
            raise PlanError(
                f"module.{name}: {type(child).__name__} mixes the rows of a batch, so one unit moves the "
                "gradients of all others; use GroupNorm, LayerNorm or none"
            )
        if isinstance(child, nn.Embedding) and child.max_norm is not None:
            raise PlanError(
                f"module.{name}: an Embedding with max_norm writes to its weights in each pass, past the clipping; "
                "leave max_norm out"
            )
    # Opacus' hooks know no recurrent layers of torch and no attention; taken row by row they need no hooks.
    leaves = [child for child in module.modules() if not any(True for _ in child.children())]
    asked = [child for child in leaves if not isinstance(child, _ROW_BY_ROW)]
    if errors := _opacus_errors([child for child in asked if not (child.training and type(child) in PLAIN)]):
        raise PlanError(f"module: not fit for DP-SGD: {errors[0]}")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise PlanError("module: wanted at least one trainable parameter, got none")


def _opacus_errors(layers: list[nn.Module]) -> list[Any]:
    """Return what Opacus objects to in these layers. Without layers it is not loaded."""
    if not layers:
        return []
    from opacus.validators import ModuleValidator

    return [error for layer in layers for error in ModuleValidator.validate(layer, strict=False)]


def made_up(inputs: Mapping[str, Tensor], target: Tensor, module: nn.Module, rows: int = 3) -> tuple[_Tables, Tensor]:
    """Return rows of the tables' shapes and types, the same on every call; of the tables nothing else is used.

    Whole numbers are distinct, as far as the module's embeddings know that many.
    """
    generator = torch.Generator().manual_seed(0)
    known = [layer.num_embeddings for layer in module.modules() if isinstance(layer, nn.Embedding)]
    most = min([*known, 2 if not known else 64])

    def of(tensor: Tensor) -> Tensor:
        shape = (rows, *tensor.shape[1:])
        if tensor.is_floating_point():
            return torch.randn(shape, generator=generator, dtype=tensor.dtype)
        numbers = torch.arange(math.prod(shape)).view(shape) * 7 + 1
        return (numbers % most).to(tensor.dtype)

    return {name: of(tensor) for name, tensor in inputs.items()}, torch.zeros(
        (rows, *target.shape[1:]), dtype=target.dtype
    )


def with_made_up_parameters(module: nn.Module) -> nn.Module:
    """Return a copy of `module` with moderate parameters, the same on every call."""
    module = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return module


def check_rows_stay_apart(module: nn.Module, inputs: Mapping[str, Tensor], target: Tensor, loss: Loss) -> None:
    """Refuse a module or a loss in which one row changes another's loss, or that keeps state of the rows.

    The error comes early and is friendly. It rests on examples: each row alone, in reverse order, among other
    neighbours, among large ones. A module that these examples do not catch cannot mix rows either, since training takes
    an unknown module one row at a time.
    """
    rows, wanted = made_up(inputs, target, module, rows=5)
    # Made-up parameters too: a head of zeros, say, would hide an encoder that mixes rows, until it is trained.
    module = with_made_up_parameters(module)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    large = {name: tensor * _LARGE if tensor.is_floating_point() else tensor.flip(0) for name, tensor in rows.items()}

    def losses(tables: _Tables, chosen: list[int]) -> Tensor:
        picked = {name: tensor[chosen] for name, tensor in tables.items()}
        return row_losses(module, picked, wanted[: len(chosen)], loss)

    with torch.no_grad():
        # In the mode that trains: a module may mix its rows in that mode alone, or draw random numbers in it.
        together = losses(rows, [0, 1, 2, 3, 4])
        mixed = {name: torch.cat([rows[name][:2], large[name][2:3], rows[name][3:4], large[name][4:]]) for name in rows}
        pairs = [
            (together, torch.cat([losses(rows, [one]) for one in range(5)])),
            (together, losses(rows, [4, 3, 2, 1, 0]).flip(0)),
            (together[:3], losses(rows, [0, 1, 2])),
            (together[[0, 1, 3]], losses(mixed, [0, 1, 2, 3, 4])[[0, 1, 3]]),
            (together[[1, 3, 0]], losses(mixed, [2, 1, 4, 3, 0])[[1, 3, 4]]),
        ]
    if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-5, equal_nan=True) for a, b in pairs):
        raise PlanError("module or loss: wanted rows that do not influence each other, got one that changes with them")
    check_buffers(module, before)


def check_buffers(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Refuse a module that wrote to a buffer: that would leave beside the noise."""
    for name, buffer in module.named_buffers():
        if name not in before or not torch.equal(before[name], buffer):
            raise PlanError(
                f"buffer {name}: changed while training; what rows write to a buffer is not clipped and gets "
                "no noise, so nothing of this module may leave"
            )
