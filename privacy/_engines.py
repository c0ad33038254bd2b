"""The two ways to a clipped sum, book-keeping and Opacus' per-row gradients, and the one way to noise it."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from privacy._conditions import backward, differentiable, made_up, per_row_gradients
from privacy._gaussian import fill_normal
from privacy._rows import Draw, Loss, row_losses
from privacy.bookkeeping import BookKeeping, supports
from privacy.errors import PlanError
from privacy.observation import tell
from privacy.randomness import FreshNoise
from privacy.secure_noise import Grid

log = logging.getLogger("privacy")


class NoisyOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' `DPOptimizer` for a clipped sum that arrives as one flat vector: one draw of noise for all of it.

    Attributes
    ----------
    total : (n_parameters,), the clipped sum of a draw; float64 with secure noise.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], **settings: Any) -> None:
        self._secure = bool(settings.pop("secure"))
        super().__init__(optimizer, **settings)
        if self._secure and not isinstance(self.generator, FreshNoise):
            raise PlanError("generator: secure noise wants fresh_generator(), got one from a seed")
        self._parameters = parameters
        self._noisy = torch.zeros(sum(p.numel() for p in parameters)).to(parameters[0])
        parts = torch.split(self._noisy, [p.numel() for p in parameters])
        self._parts = [part.view_as(p) for p, part in zip(parameters, parts, strict=True)]
        self.total = self._noisy

    @property
    def accumulated_iterations(self) -> int:
        """One draw a step, however many pieces it was summed in."""
        return 1

    def pre_step(self, closure: Any = None) -> bool:
        """Noise, divide, and let whoever counts the steps (`attach_step_hook`) know."""
        self.add_noise()
        self.scale_grad()
        if self.step_hook:
            self.step_hook(self)
        return True

    def add_noise(self) -> None:
        if self._secure:
            grid = Grid(self.max_grad_norm, len(self.total))
            noisy = grid.release(self.total.cpu().numpy(), self.noise_multiplier, self.generator.stream)
            self._noisy.copy_(torch.from_numpy(noisy))
        else:
            on_cpu = self._noisy.device.type == "cpu"
            noise = self._noisy if on_cpu else torch.empty(len(self.total))
            deviation = self.noise_multiplier * self.max_grad_norm
            tell("dp_sgd", self.total, deviation=deviation)
            fill_normal(noise, deviation, self.generator)
            (noise if on_cpu else self._noisy.copy_(noise)).add_(self.total)

    def scale_grad(self) -> None:
        self._noisy.div_(self.expected_batch_size)
        for parameter, part in zip(self._parameters, self._parts, strict=True):
            if parameter.grad is not part:
                parameter.grad = part


class Engine(Protocol):
    """Sums clipped gradients of `module` over the pieces of a draw."""

    def attached(self) -> AbstractContextManager[None]:
        """Context in which the module is prepared for passes."""

    def add(self, draw: Draw, loss: Loss, clip: float) -> Tensor:
        """Add the clipped gradients of some units; return the norms (n_units,) that they had."""

    def take(self) -> Tensor:
        """Return the sum (n_parameters,) so far, good until the next `add`; that one starts from zero."""


class HookEngine:
    """Opacus' own per-row gradients, by hooks."""

    def __init__(self, module: nn.Module, parameters: list[nn.Parameter]) -> None:
        self.module, self.parameters = module, parameters
        self._total = self._zero()

    def _zero(self) -> Tensor:
        return torch.zeros(sum(p.numel() for p in self.parameters), dtype=self.parameters[0].dtype)

    @contextmanager
    def attached(self) -> Iterator[None]:
        with per_row_gradients(self.module):
            yield

    def add(self, draw: Draw, loss: Loss, clip: float) -> Tensor:
        if not draw.units:
            return self._total[:0]
        for parameter in self.parameters:
            setattr(parameter, "grad_sample", None)  # noqa: B010 (where Opacus keeps it)
        if len(draw.target):
            inputs = differentiable(draw.inputs)
            backward(row_losses(self.module, inputs, draw.target, loss).sum(), inputs)
        sums = [_sum_by_unit(parameter, draw).flatten(1) for parameter in self.parameters]
        norms: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t, dim=1) for t in sums]), dim=0)
        broken = ~norms.isfinite()
        if bool(broken.any()):  # a NaN or an overflow of one unit would spread over the sum: a release of its own
            for total in sums:
                total[broken] = 0
            norms = norms.masked_fill(broken, 0)
        factors = (clip / (norms + 1e-6)).clamp(max=1.0)
        self._total += torch.cat([total.mT @ factors for total in sums])
        return norms

    def take(self) -> Tensor:
        total, self._total = self._total, self._zero()
        return total


def _sum_by_unit(parameter: nn.Parameter, draw: Draw) -> Tensor:
    """Per-unit sums (n_units, *parameter.shape) of the per-row gradients."""
    total = torch.zeros((draw.units, *parameter.shape), dtype=parameter.dtype)
    if not len(draw.target):
        return total
    per_row = getattr(parameter, "grad_sample", None)
    if not isinstance(per_row, Tensor) or len(per_row) != len(draw.target):
        raise PlanError("module: a parameter got no gradient for some row; this attempt may not leave")
    if draw.single:
        return per_row
    return torch.index_add(total, 0, draw.place, per_row)


def engine_for(module: nn.Module, parameters: list[nn.Parameter]) -> Engine:
    """Book-keeping where it fits; else Opacus' hooks, and a line in the log that says why."""
    reason = supports(module)
    if reason is None:
        return BookKeeping(module, parameters)
    log.info("per-row gradients by Opacus' hooks (slower): %s", reason)
    return HookEngine(module, parameters)


def check_sums(module: nn.Module, inputs: Mapping[str, Tensor], target: Tensor, loss: Loss) -> None:
    """Refuse a module whose sums are not what autograd says, on made-up rows: whatever a rule did not foresee.

    A parameter used outside its layer, say, has a gradient that no rule sees; training would go astray in silence.
    """
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    parameters = list(named.values())
    rows, wanted = made_up(inputs, target)
    losses = row_losses(module, rows, wanted, loss)
    by_row = []
    for one in losses:
        gradients = torch.autograd.grad(one, parameters, retain_graph=True, allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is None:
                raise PlanError(
                    f"parameter {name}: gets no per-row gradient, so it cannot be clipped; use it in the forward "
                    "pass of a layer, or set requires_grad to False"
                )
        by_row.append(torch.cat([gradient.flatten() for gradient in gradients]))
    sums = engine_for(module, parameters)
    with sums.attached():
        for units in ((0, 1, 2), (0, 1, 1)):
            count = max(units) + 1
            draw = Draw(rows, wanted, torch.tensor(units), count, single=count == len(units))
            each = [
                torch.stack([g for g, u in zip(by_row, units, strict=True) if u == unit]).sum(0)
                for unit in range(count)
            ]
            shortest = min(float(gradient.norm()) for gradient in each)
            for clip in (math.inf, 0.5 * shortest):
                sums.add(draw, loss, clip)
                truth = torch.stack([g * min(1.0, clip / (float(g.norm()) + 1e-6)) for g in each]).sum(0)
                if not torch.allclose(sums.take(), truth, rtol=1e-3, atol=1e-4 * float(truth.norm()) + 1e-7):
                    raise PlanError(
                        "module: its gradient is not the sum of its layers' gradients, so it cannot be clipped; use "
                        "every parameter in the forward pass of its own layer alone, once"
                    )
