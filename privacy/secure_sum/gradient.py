"""The clipped sum of one Poisson draw, without noise: what a member encodes, masks and never sends as it is.

Abadi et al. 2016, *Deep Learning with Differential Privacy*, Algorithm 1, up to the noise.

Formal guarantees
-----------------
* Each unit is drawn with the public probability q from fresh entropy; the gradients of all its rows are summed and
  clipped once to L2 norm C over *all* trainable parameters jointly, private scope included.
* A unit whose gradient is not finite adds nothing. An empty draw is a sum of zeros.
* Clipping and summation run in float64; the clip is shortened by 2^-20 to leave room for their rounding.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from privacy._conditions import (
    backward,
    check_buffers,
    check_gradients_reach,
    check_layers,
    check_rows_stay_apart,
    differentiable,
    per_row_gradients,
)
from privacy._rows import Loss, row_losses
from privacy.dp_sgd import StepReport
from privacy.errors import PlanError
from privacy.randomness import check_usable
from privacy.sampling import poisson_sample

__all__ = ["ClippedSum", "clipped_sum"]

_ROOM = 1 - 2.0**-20
_NUMBERS = 1 << 22  # per-row gradients held at once


@dataclass(frozen=True)
class ClippedSum:
    """A clipped sum by parameter name (float64, each of the parameter's shape); `report` is for the own record."""

    by_name: dict[str, Tensor]
    report: StepReport


def clipped_sum(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    target: Tensor,
    unit_index: Tensor,
    n_units: int,
    loss: Loss,
    *,
    sampling_rate: float,
    clip: float,
    generator: torch.Generator,
) -> ClippedSum:
    """Draw units and return the sum of their clipped gradients; `module` is unchanged.

    Parameters are those of `privacy.dp_sgd.train_private`.

    Raises
    ------
    PlanError
        Layers that mix rows, a parameter without per-row gradients, a generator inherited over a fork.
    """
    check_usable(generator)
    if not clip > 0:
        raise PlanError(f"clip: wanted a number > 0, got {clip!r}")
    mode = module.training
    module.train()
    try:
        check_layers(module)
        check_rows_stay_apart(module, inputs, target, loss)
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        with per_row_gradients(module):
            check_gradients_reach(module, inputs, target, loss)
            drawn = poisson_sample(n_units, sampling_rate, generator)
            total, clipped = _sum(module, inputs, target, unit_index, n_units, drawn, loss, clip * _ROOM)
        check_buffers(module, buffers)
    finally:
        module.train(mode)
    fraction = clipped / len(drawn) if len(drawn) else 0.0
    return ClippedSum(total, StepReport(steps_taken=1, mean_clip_fraction=fraction, draws=(len(drawn),)))


def _sum(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    target: Tensor,
    unit_index: Tensor,
    n_units: int,
    drawn: Tensor,
    loss: Loss,
    clip: float,
) -> tuple[dict[str, Tensor], int]:
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    total = {name: torch.zeros(parameter.shape, dtype=torch.float64) for name, parameter in named}
    clipped = 0
    counts = torch.bincount(unit_index, minlength=n_units)
    size = sum(parameter.numel() for _, parameter in named)
    for units in _pieces(drawn, counts, max(1, _NUMBERS // size)):
        place = torch.full((n_units,), -1, dtype=torch.int64)
        place[units] = torch.arange(len(units))
        local = place[unit_index]
        rows = (local >= 0).nonzero().flatten()
        if not len(rows):
            continue
        picked = differentiable({name: tensor[rows] for name, tensor in inputs.items()})
        backward(row_losses(module, picked, target[rows], loss).sum(), picked)
        sums = {name: _by_unit(parameter, local[rows], len(units)) for name, parameter in named}
        norms = torch.stack([s.reshape(len(units), -1).norm(dim=1) for s in sums.values()]).norm(dim=0)
        good = norms.isfinite()
        factor = torch.where(good, (clip / norms).clamp(max=1.0), torch.zeros_like(norms))
        clipped += int((good & (norms > clip)).sum())
        for name, per_unit in sums.items():
            per_unit[~good] = 0
            total[name] += torch.tensordot(factor, per_unit, dims=1)
    return total, clipped


def _pieces(drawn: Tensor, counts: Tensor, at_most: int) -> list[Tensor]:
    """Split the drawn units into pieces of whole units of about `at_most` rows: for memory alone."""
    if not len(drawn):
        return []
    piece = torch.cumsum(counts[drawn], 0) // at_most
    return [drawn[piece == number] for number in torch.unique(piece)]


def _by_unit(parameter: nn.Parameter, place: Tensor, units: int) -> Tensor:
    per_row = getattr(parameter, "grad_sample", None)
    if not isinstance(per_row, Tensor) or len(per_row) != len(place):
        raise PlanError("module: a parameter got no gradient for some row; this attempt may not leave")
    total = torch.zeros((units, *parameter.shape), dtype=torch.float64)
    total.index_add_(0, place, per_row.double())
    setattr(parameter, "grad_sample", None)  # noqa: B010 (not an attribute that Parameter declares)
    return total
