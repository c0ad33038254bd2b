"""What a module must be for per-unit clipping to bound a unit's influence; checked before the first step.

All checks use made-up rows, so that whether they pass depends on the module and never on the data.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from opacus.grad_sample.grad_sample_module import GradSampleHooks
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from privacy._rows import Loss, row_losses
from privacy.errors import PlanError


@contextmanager
def per_row_gradients(module: nn.Module) -> Iterator[None]:
    """Opacus hooks on `module` (names unchanged), removed on the way out whatever happens."""
    try:
        hooks = GradSampleHooks(module, batch_first=True, loss_reduction="sum", strict=True)
    except (NotImplementedError, ValueError) as error:
        raise PlanError(f"module: no per-row gradients for it: {error}") from error
    try:
        yield
    finally:
        hooks.cleanup()
        for child in module.modules():
            for name in ("activations", "max_batch_len", "ft_compute_sample_grad"):
                if hasattr(child, name):
                    delattr(child, name)
        for parameter in module.parameters():
            parameter.grad = None
            for name in ("summed_grad", "_processed"):
                if hasattr(parameter, name):
                    delattr(parameter, name)


def differentiable(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Ask for gradients of the inputs too: torch warns when a hooked first layer has none to pass on."""
    return {name: tensor.requires_grad_() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}


def backward(total: Tensor, inputs: Mapping[str, Tensor]) -> None:
    """``total.backward()`` through the hooks."""
    if all(tensor.requires_grad for tensor in inputs.values()):
        total.backward()  # type: ignore[no-untyped-call]
        return
    with warnings.catch_warnings():
        # Layers on whole numbers (embeddings) have no input gradient to pass on: the hook is right all the same.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        total.backward()  # type: ignore[no-untyped-call]


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
    errors = ModuleValidator.validate(module, strict=False)
    if errors:
        raise PlanError(f"module: not fit for DP-SGD: {errors[0]}")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise PlanError("module: wanted at least one trainable parameter, got none")


def made_up(inputs: Mapping[str, Tensor], target: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Three rows of the tables' shapes and types, the same on every call; of the tables nothing else is used."""
    generator = torch.Generator().manual_seed(0)
    rows = {
        name: torch.randn((3, *tensor.shape[1:]), generator=generator, dtype=tensor.dtype)
        if tensor.is_floating_point()
        else torch.zeros((3, *tensor.shape[1:]), dtype=tensor.dtype)
        for name, tensor in inputs.items()
    }
    return rows, torch.zeros((3, *target.shape[1:]), dtype=target.dtype)


def check_rows_stay_apart(module: nn.Module, inputs: Mapping[str, Tensor], target: Tensor, loss: Loss) -> None:
    """Refuse a module or a loss in which one row changes another's loss, or that keeps state of the rows."""
    rows, wanted = made_up(inputs, target)
    # Made-up parameters too: a head of zeros, say, would hide an encoder that mixes rows, until it is trained.
    module = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(1)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=generator)
        # In the mode that trains: a module may mix its rows in that mode alone, or draw random numbers in it.
        together = row_losses(module, rows, wanted, loss)
        alone = row_losses(module, {name: tensor[:1] for name, tensor in rows.items()}, wanted[:1], loss)
    if not torch.allclose(together[:1], alone, rtol=1e-3, atol=1e-5):
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


def check_gradients_reach(module: nn.Module, inputs: Mapping[str, Tensor], target: Tensor, loss: Loss) -> None:
    """Refuse a trainable parameter without per-row gradients (call within `per_row_gradients`)."""
    rows, wanted = made_up(inputs, target)
    try:
        rows = differentiable(rows)
        backward(row_losses(module, rows, wanted, loss).sum(), rows)
    except (AttributeError, NotImplementedError) as error:
        raise PlanError(
            f"module: per-row gradients failed ({error}); put its own parameters into a layer that takes and "
            "returns tensors"
        ) from error
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            sample = getattr(parameter, "grad_sample", None)
            if not isinstance(sample, Tensor) or sample.shape != (3, *parameter.shape):
                raise PlanError(
                    f"parameter {name}: gets no per-row gradient, so it cannot be clipped; use it in the "
                    "forward pass of a layer, or set requires_grad to False"
                )
            setattr(parameter, "grad_sample", None)  # noqa: B010 (not an attribute that Parameter declares)
            parameter.grad = None
