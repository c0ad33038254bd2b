"""DP-SGD by unit with Opacus, and its plain twin (Abadi et al. 2016, *Deep Learning with DP*).

Formal guarantees
-----------------
One step draws every unit with the public probability q, sums the gradients of all rows of a drawn unit, clips
that sum once to L2 norm C over *all* trainable parameters jointly (private scope too), adds the sums, adds
Gaussian noise of standard deviation sigma x C to every coordinate and divides by the public number
q x declared units. Hence `steps` of it cost
``PoissonGaussian(noise_multiplier=sigma, sampling_rate=q, steps=steps)`` under adding or removing one unit,
whatever the rows hold:

* a unit with any number of rows moves the sum by at most C; a unit whose gradient is not finite by 0;
* an empty draw adds the noise all the same, and takes a step;
* nothing else of the data reaches the module: buffers may not change, layers may not mix rows.

Opacus brings the per-row gradients (hooks), the clipping and the noise (`DPOptimizer`); its PrivacyEngine is
not used, for it derives q and the normaliser from the private number of rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from opacus.optimizers import DPOptimizer
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
from privacy._rows import Loss, MakeOptimizer, Rows, row_losses
from privacy.errors import PlanError
from privacy.events import PoissonGaussian
from privacy.randomness import check_usable
from privacy.sampling import poisson_sample

__all__ = ["DpSgdPlan", "PlainPlan", "StepReport", "check_module", "train_plain", "train_private"]


@dataclass(frozen=True, kw_only=True)
class PlainPlan:
    """Public constants of sampling: the same law with and without noise.

    Parameters
    ----------
    sampling_rate : probability of a unit to be in a draw, in (0, 1].
    declared_units : public number of units (never the counted one).
    steps : draws, each of them a step of the optimizer.
    """

    sampling_rate: float
    declared_units: int
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise PlanError(f"sampling_rate: wanted a number in (0, 1], got {self.sampling_rate!r}")
        for name in ("declared_units", "steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise PlanError(f"{name}: wanted a whole number >= 1, got {value!r}")

    @property
    def expected_batch(self) -> float:
        """The public normaliser: sampling_rate x declared_units, in units."""
        return self.sampling_rate * self.declared_units


@dataclass(frozen=True, kw_only=True)
class DpSgdPlan(PlainPlan):
    """One frozen plan couples clip, noise and sampling, so that training and accounting cannot drift apart.

    Parameters
    ----------
    noise_multiplier : sigma; the noise has standard deviation sigma x clip. Finite and > 0.
    clip : L2 norm C to which a unit's summed gradient is clipped. Finite and > 0.
    """

    noise_multiplier: float
    clip: float

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("noise_multiplier", "clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise PlanError(f"{name}: wanted a finite number > 0, got {value!r}")

    def event(self, *, unit: str, partition: str = "train") -> PoissonGaussian:
        """What carrying out this plan costs."""
        return PoissonGaussian(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
            partition=partition,
            unit=unit,
        )


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What training says about itself. Depends on the data: for the participant's own record only.

    Attributes
    ----------
    steps_taken : steps of the optimizer.
    mean_clip_fraction : fraction of drawn units whose gradient was shortened (0 without clipping).
    draws : units in each draw.
    """

    steps_taken: int
    mean_clip_fraction: float
    draws: tuple[int, ...]


def _optimizer(module: nn.Module, make: MakeOptimizer) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = make(parameters)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if {id(parameter) for parameter in held} != {id(parameter) for parameter in parameters}:
        # A parameter outside the optimizer would be outside the joint clipping.
        raise PlanError("make_optimizer: wanted an optimizer of exactly the parameters it was given")
    return optimizer, parameters


def check_module(module: nn.Module, inputs: Mapping[str, Tensor], target: Tensor, loss: Loss) -> None:
    """Refuse a module that per-unit clipping does not bound, without looking at a row.

    Only shapes and dtypes of `inputs` and `target` are used. `train_private` asks for the same; ask before a
    reservation, so that a module that cannot train costs nothing.
    """
    mode = module.training
    module.train()
    try:
        check_layers(module)
        check_rows_stay_apart(module, inputs, target, loss)
        with per_row_gradients(module):
            check_gradients_reach(module, inputs, target, loss)
    finally:
        module.train(mode)


def train_private(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    target: Tensor,
    unit_index: Tensor,
    n_units: int,
    loss: Loss,
    make_optimizer: MakeOptimizer,
    plan: DpSgdPlan,
    generator: torch.Generator,
) -> StepReport:
    """Train `module` in place by DP-SGD; afterwards it has no hooks and its parameters their names.

    Parameters
    ----------
    module : takes the dict of named tensors and returns outputs (n_rows, ...).
    inputs : named tensors, each (n_rows, ...).
    target : (n_rows, ...).
    unit_index : int64 (n_rows,), the unit of each row, in 0..n_units-1.
    n_units : units present (stays at home; the normaliser is the plan's public number).
    loss : (outputs, target) -> losses (n_rows,), one for each row.
    make_optimizer : parameters -> optimizer; it sees noisy gradients only.
    plan : the public constants.
    generator : `fresh_generator()`, made in this process for this attempt. A seeded one is for
        simulation, which claims no epsilon.

    Raises
    ------
    PlanError
        Before the first step: layers that mix rows, a parameter without per-row gradients, rows that
        influence each other, a generator inherited over a fork. After the last: a buffer that changed.
    """
    check_usable(generator)
    rows = Rows(inputs, target, unit_index, n_units)
    mode = module.training
    module.train()
    try:
        check_layers(module)
        check_rows_stay_apart(module, inputs, target, loss)
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        with per_row_gradients(module):
            check_gradients_reach(module, inputs, target, loss)
            optimizer, parameters = _optimizer(module, make_optimizer)
            private = DPOptimizer(
                optimizer,
                noise_multiplier=plan.noise_multiplier,
                max_grad_norm=plan.clip,
                expected_batch_size=plan.expected_batch,
                loss_reduction="mean",
                generator=generator,
            )
            report = _steps(module, rows, loss, private, parameters, plan, generator)
        check_buffers(module, buffers)
    finally:
        module.train(mode)
    return report


def _steps(
    module: nn.Module,
    rows: Rows,
    loss: Loss,
    optimizer: Any,
    parameters: list[nn.Parameter],
    plan: DpSgdPlan,
    generator: torch.Generator,
) -> StepReport:
    draws: list[int] = []
    clipped = 0
    for _ in range(plan.steps):
        units = poisson_sample(rows.n_units, plan.sampling_rate, generator)
        inputs, target, place = rows.of(units)
        optimizer.zero_grad(set_to_none=True)
        if len(place):
            inputs = differentiable(inputs)
            backward(row_losses(module, inputs, target, loss).sum(), inputs)
        sums = [_sum_by_unit(parameter, place, len(units)) for parameter in parameters]
        clipped += _silence_non_finite(sums, plan.clip) if len(units) else 0
        for parameter, per_unit in zip(parameters, sums, strict=True):
            setattr(parameter, "grad_sample", per_unit)  # noqa: B010 (where DPOptimizer looks)
        optimizer.step()
        draws.append(len(units))
    drawn = sum(draws)
    return StepReport(steps_taken=len(draws), mean_clip_fraction=clipped / drawn if drawn else 0.0, draws=tuple(draws))


def _sum_by_unit(parameter: nn.Parameter, place: Tensor, n_drawn: int) -> Tensor:
    """Per-unit sums (n_drawn, *parameter.shape) of the per-row gradients."""
    total = torch.zeros((n_drawn, *parameter.shape), dtype=parameter.dtype)
    if len(place):
        per_row = getattr(parameter, "grad_sample", None)
        if not isinstance(per_row, Tensor) or len(per_row) != len(place):
            raise PlanError("module: a parameter got no gradient for some row; this attempt may not leave")
        total.index_add_(0, place, per_row)
    return total


def _silence_non_finite(sums: list[Tensor], clip: float) -> int:
    """Zero the units whose norm is not finite (in place); return how many of the others exceed `clip`.

    A NaN or an overflow of one unit would otherwise spread over the sum and be a release of its own.
    """
    norms = torch.stack([total.flatten(1).norm(dim=1) for total in sums]).norm(dim=0)
    broken = ~norms.isfinite()
    if bool(broken.any()):
        for total in sums:
            total[broken] = 0
    return int(((norms > clip) & ~broken).sum())


def train_plain(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    target: Tensor,
    unit_index: Tensor,
    n_units: int,
    loss: Loss,
    make_optimizer: MakeOptimizer,
    plan: PlainPlan,
    generator: torch.Generator,
) -> StepReport:
    """Train `module` in place without clipping and noise: same draws, same normaliser, no privacy at all.

    Parameters are those of `train_private`; an empty draw is a step with a gradient of zero. What it trained
    may leave only as a `NonPrivate` event.
    """
    check_usable(generator)
    rows = Rows(inputs, target, unit_index, n_units)
    optimizer, parameters = _optimizer(module, make_optimizer)
    mode = module.training
    module.train()
    draws: list[int] = []
    try:
        for _ in range(plan.steps):
            units = poisson_sample(n_units, plan.sampling_rate, generator)
            drawn, wanted, place = rows.of(units)
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            if len(place):
                mean = row_losses(module, drawn, wanted, loss).sum() / plan.expected_batch
                mean.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            draws.append(len(units))
    finally:
        module.train(mode)
        for parameter in parameters:
            parameter.grad = None
    return StepReport(steps_taken=len(draws), mean_clip_fraction=0.0, draws=tuple(draws))
