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
* what a unit adds depends on its own rows alone, to the bit: no path, no norm and no rounding goes by another unit's
  rows (`privacy.bookkeeping`), and a module that is not known to keep rows apart sees one row at a time;
* an empty draw adds the noise all the same, and takes a step;
* nothing else of the data reaches the module: buffers may not change.

The clipped sum comes from book-keeping (`privacy.bookkeeping`), or from the module as a function of one row
(`privacy._one_row`) where it does not fit; noise and step from a subclass of Opacus' `DPOptimizer`. Opacus'
PrivacyEngine is not used, for it derives q and the normaliser from the private number of rows. With `secure`, sums are
float64 and the noise is that of `privacy.secure_noise`.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from consortia_plugins.arguments import named_arguments
from privacy._composition import Composition, known
from privacy._conditions import check_buffers, check_layers, check_rows_stay_apart
from privacy._engines import Engine, check_sums, engine_for
from privacy._rows import Loss, MakeOptimizer, Memory, Rows, one_thread, row_losses
from privacy.errors import PlanError
from privacy.events import PoissonGaussian, check_count, check_positive
from privacy.randomness import check_usable
from privacy.sampling import poisson_draws
from privacy.secure_noise import MAX_ROWS

if TYPE_CHECKING:
    from privacy._optimizer import NoisyOptimizer

__all__ = ["DpSgdPlan", "PlainPlan", "StepReport", "check_module", "train_plain", "train_private"]

#: Rows in one pass, unless told otherwise.
PHYSICAL_ROWS: Final = 8192


@named_arguments(PlanError)
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
        check_count("declared_units", self.declared_units)
        check_count("steps", self.steps)

    @property
    def expected_batch(self) -> float:
        """The public normaliser: sampling_rate x declared_units, in units."""
        return self.sampling_rate * self.declared_units


@named_arguments(PlanError)
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
        check_positive("noise_multiplier", self.noise_multiplier)
        check_positive("clip", self.clip)

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


@named_arguments(PlanError)
def check_module(module: nn.Module, inputs: Mapping[str, Tensor], target: Tensor, loss: Loss) -> Composition | str:
    """Refuse a module that per-unit clipping does not bound, without looking at a row.

    Only shapes and dtypes of `inputs` and `target` are used. `train_private` asks for the same; ask before a
    reservation, so that a module that cannot train costs nothing.

    Returns
    -------
    What `privacy._composition.known` says of the module, for whoever trains it next.
    """
    mode = module.training
    module.train()
    try:
        check_layers(module)
        steps = known(module)
        check_rows_stay_apart(module, inputs, target, loss)
        check_sums(module, inputs, target, loss, steps)
    finally:
        module.train(mode)
    return steps


@named_arguments(PlanError)
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
    *,
    secure: bool = False,
    single: bool = False,
    physical_rows: int = PHYSICAL_ROWS,
) -> StepReport:
    """Train `module` in place by DP-SGD; afterwards it has no hooks and its parameters their names.

    Parameters
    ----------
    module : takes the dict of named tensors and returns outputs (n_rows, ...).
    inputs : named tensors, each (n_rows, ...).
    target : (n_rows, ...).
    unit_index : int64 (n_rows,), the unit of each row, in 0..n_units-1.
    n_units : units present (stays at home; the normaliser is the plan's public number).
    loss : (outputs, target) -> losses (n_rows,), one for each row. It is read once: a constant that it changes between
        steps stays what it was.
    make_optimizer : parameters -> optimizer; it sees noisy gradients only.
    plan : the public constants.
    generator : `fresh_generator()`, made in this process for this attempt. A seeded one is for
        simulation, which claims no epsilon.
    secure : noise on a public grid from a cryptographic generator (`privacy.secure_noise`); slower.
    single : whether a unit is one row by definition (the policy's unit is "record"): quicker. Public, never a
        property of the rows; refused where a unit has another number of rows.
    physical_rows : rows held at once. Bounds memory, changes neither draws nor accounting, nor the passes, which all
        have the number of rows that the plan's expected batch gives.

    Raises
    ------
    PlanError
        Before the first step: layers that mix rows, a parameter without per-row gradients, rows that
        influence each other, a generator inherited over a fork. After the last: a buffer that changed.
    """
    from privacy._optimizer import NoisyOptimizer

    check_usable(generator)
    rows = Rows(inputs, target, unit_index, n_units, single, plan.expected_batch)
    mode = module.training
    module.train()
    try:
        steps = check_module(module, inputs, target, loss)
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        optimizer, parameters = _optimizer(module, make_optimizer)
        private = NoisyOptimizer(
            optimizer,
            parameters,
            noise_multiplier=plan.noise_multiplier,
            max_grad_norm=plan.clip,
            expected_batch_size=plan.expected_batch,
            loss_reduction="mean",
            generator=generator,
            secure=secure,
        )
        twin = Twin(module, parameters) if secure else None
        if twin is not None:
            rows = rows.doubled()
        sums = engine_for(module, parameters, steps) if twin is None else twin.engine(steps)
        with one_thread(), sums.attached():
            report = _steps(sums, rows, loss, private, plan, generator, twin, physical_rows)
        check_buffers(module, buffers)
    finally:
        module.train(mode)
        for parameter in module.parameters():
            parameter.grad = None
            if hasattr(parameter, "summed_grad"):  # DPOptimizer's
                del parameter.summed_grad
    return report


class Twin:
    """A float64 copy of a module, for sums whose rounding secure noise can bound."""

    def __init__(self, module: nn.Module, parameters: list[nn.Parameter]) -> None:
        self.module = copy.deepcopy(module).double()
        self.parameters = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self._copies: list[Tensor] = list(self.parameters)
        self._originals: list[Tensor] = list(parameters)

    def engine(self, steps: Composition | str) -> Engine:
        """Return what sums its gradients; `steps` are those of the original."""
        of = steps if isinstance(steps, str) else steps.of(self.module)
        return engine_for(self.module, self.parameters, of)

    def follow(self) -> None:
        """Take over the parameters after a step."""
        with torch.no_grad():
            torch._foreach_copy_(self._copies, self._originals)


def _steps(
    sums: Engine,
    rows: Rows,
    loss: Loss,
    optimizer: "NoisyOptimizer",
    plan: DpSgdPlan,
    generator: torch.Generator,
    twin: Twin | None,
    physical_rows: int,
) -> StepReport:
    draws: list[int] = []
    norms: list[Tensor] = []
    memory = Memory()
    for units in poisson_draws(rows.n_units, plan.sampling_rate, plan.steps, generator):
        if twin is not None:
            rows.check_size(units, MAX_ROWS)
            twin.follow()
        norms += [sums.add(piece, loss, plan.clip) for piece in rows.draws(units, physical_rows, memory)]
        optimizer.total = sums.take()
        optimizer.step()
        draws.append(len(units))
    drawn = sum(draws)
    shortened = int((torch.cat(norms) > plan.clip).sum())
    fraction = shortened / drawn if drawn else 0.0
    return StepReport(steps_taken=len(draws), mean_clip_fraction=fraction, draws=tuple(draws))


@named_arguments(PlanError)
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
    *,
    single: bool = False,
) -> StepReport:
    """Train `module` in place without clipping and noise: same draws, same normaliser, no privacy at all.

    Parameters are those of `train_private`; an empty draw is a step with a gradient of zero. What it trained
    may leave only as a `NonPrivate` event.
    """
    check_usable(generator)
    rows = Rows(inputs, target, unit_index, n_units, single)
    optimizer, parameters = _optimizer(module, make_optimizer)
    mode = module.training
    module.train()
    draws: list[int] = []
    try:
        for units in poisson_draws(n_units, plan.sampling_rate, plan.steps, generator):
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            for piece in rows.draws(units, PHYSICAL_ROWS):
                if real := len(piece.place):
                    tables = {name: tensor[:real] for name, tensor in piece.inputs.items()}
                    mean = row_losses(module, tables, piece.target[:real], loss).sum() / plan.expected_batch
                    mean.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            draws.append(len(units))
    finally:
        module.train(mode)
        for parameter in parameters:
            parameter.grad = None
    return StepReport(steps_taken=len(draws), mean_clip_fraction=0.0, draws=tuple(draws))
