"""The clipped sum of one Poisson draw, without noise. A member masks it before it leaves.

Abadi et al. 2016, *Deep Learning with Differential Privacy*, Algorithm 1, up to the noise.

Formal guarantees
-----------------
* Each unit is drawn with the public probability q from fresh entropy; the gradients of all its rows are summed and
  clipped once to L2 norm C over *all* trainable parameters jointly, private scope included.
* A unit whose gradient is not finite adds nothing. An empty draw is a sum of zeros.
* Gradients, clipping and summation run in float64 on `privacy.dp_sgd`'s own path; what a unit adds depends on its own
  rows alone. The clip is shortened by the factor 1 / (1 + `secure_noise.SLACK`) to leave room for the rounding, so
  one unit more moves the sum by at most C.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from privacy._rows import Loss, Rows, one_thread
from privacy.dp_sgd import PHYSICAL_ROWS, StepReport, Twin, check_module
from privacy.errors import PlanError
from privacy.randomness import check_usable
from privacy.sampling import poisson_sample
from privacy.secure_noise import MAX_ROWS, SLACK

__all__ = ["ClippedSum", "clipped_sum"]


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
    single: bool = False,
) -> ClippedSum:
    """Draw units and return the sum of their clipped gradients; `module` is unchanged.

    Parameters are those of `privacy.dp_sgd.train_private`.

    Raises
    ------
    PlanError
        Layers that mix rows, a parameter without gradients, a generator inherited over a fork, a draw of too many rows.
    """
    check_usable(generator)
    if not clip > 0:
        raise PlanError(f"clip: wanted a number > 0, got {clip!r}")
    steps = check_module(module, inputs, target, loss)
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    twin = Twin(module, [parameter for _, parameter in named])
    twin.module.train()
    rows = Rows(inputs, target, unit_index, n_units, single).doubled()  # passes of the usual public size
    drawn = poisson_sample(n_units, sampling_rate, generator)
    rows.check_size(drawn, MAX_ROWS)
    sums = twin.engine(steps)
    short = clip / (1 + SLACK)
    clipped = 0
    with one_thread(), sums.attached():
        for piece in rows.draws(drawn, PHYSICAL_ROWS):
            clipped += int((sums.add(piece, loss, short) > short).sum())
        total = torch.split(sums.take().clone(), [parameter.numel() for _, parameter in named])
    fraction = clipped / len(drawn) if len(drawn) else 0.0
    by_name = {name: part.view(parameter.shape) for (name, parameter), part in zip(named, total, strict=True)}
    return ClippedSum(by_name, StepReport(steps_taken=1, mean_clip_fraction=fraction, draws=(len(drawn),)))
