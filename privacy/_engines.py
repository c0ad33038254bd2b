"""The two ways to a clipped sum: book-keeping, and row by row."""

import logging
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from privacy._composition import Composition, known
from privacy._conditions import made_up, with_made_up_parameters
from privacy._one_row import OneRow, check_parameters, parameter_versions
from privacy._rows import Draw, Loss, row_losses
from privacy.bookkeeping import SHORTER, TERMS, BookKeeping
from privacy.errors import PlanError

log = logging.getLogger("privacy")


class Engine(Protocol):
    """Sums clipped gradients of `module` over the pieces of a draw."""

    def attached(self) -> AbstractContextManager[None]:
        """Context in which the module is prepared for passes."""

    def add(self, draw: Draw, loss: Loss, clip: float) -> Tensor:
        """Add the clipped gradients of some units; return the norms (n_units,) that they had."""

    def take(self) -> Tensor:
        """Return the sum (n_parameters,) so far, good until the next `add`; that one starts from zero."""


class RowEngine:
    """Clipped sums of any module, taken as a function of one row (`privacy._one_row`).

    A unit's gradient g is the sum of its rows' gradients g_i. What clips it is the formula of `privacy.bookkeeping`,
    with T = sum_i |g_i| where a unit may have several rows.
    """

    def __init__(self, module: nn.Module, parameters: list[nn.Parameter]) -> None:
        self.module, self.parameters = module, parameters
        self._rows = OneRow(module)
        self._total = self._zero()

    def _zero(self) -> Tensor:
        return torch.zeros(sum(p.numel() for p in self.parameters), dtype=self.parameters[0].dtype)

    def attached(self) -> AbstractContextManager[None]:
        return nullcontext()

    def add(self, draw: Draw, loss: Loss, clip: float) -> Tensor:
        rows, count = len(draw.place), draw.units
        if not count or not rows:
            return self._total.new_zeros(count)
        versions = parameter_versions(self.module)
        inputs = {name: tensor[:rows] for name, tensor in draw.inputs.items()}
        found = self._rows.gradients(inputs, draw.target[:rows], loss, draw.together)
        check_parameters(self.module, versions)
        gradients = torch.cat([tensor.flatten(1) for tensor in found.values()], dim=1)
        sums, norms = gradients, torch.linalg.vector_norm(gradients, dim=1)
        if not draw.single:
            sums = torch.zeros((count, gradients.shape[1]), dtype=gradients.dtype).index_add_(0, draw.place, gradients)
            terms = torch.zeros(count, dtype=norms.dtype).index_add_(0, draw.place, norms)
            norms = torch.linalg.vector_norm(sums, dim=1) + TERMS * terms
        broken = ~norms.isfinite()
        if bool(broken.any()):  # a NaN or an overflow of one unit would spread over the sum: a release of its own
            sums = sums.masked_fill(broken.unsqueeze(1), 0)
            norms = norms.masked_fill(broken, 0)
        self._total += sums.mT @ (clip * SHORTER / (norms + 1e-6)).clamp(max=1.0)
        return cast(Tensor, norms)

    def take(self) -> Tensor:
        total, self._total = self._total, self._zero()
        return total


def engine_for(module: nn.Module, parameters: list[nn.Parameter], steps: Composition | str | None = None) -> Engine:
    """Book-keeping where it fits; else the module as a function of one row, and a line in the log that says why.

    `steps` is what `known` says of the module, where that was asked for before.
    """
    steps = steps or known(module)
    if not isinstance(steps, str):
        return BookKeeping(module, parameters, steps)
    log.info("gradients row by row (slower): %s", steps)
    return RowEngine(module, parameters)


def check_sums(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    target: Tensor,
    loss: Loss,
    steps: Composition | str | None = None,
) -> None:
    """Refuse a module whose sums differ from those of autograd on made-up rows, whatever the cause.

    An example: a parameter that is used outside its layer has a gradient that no rule sees. Training would go wrong in
    silence.
    """
    # The parameters are made up, too. With hostile ones every difference could be rounding, and the question here is
    # how the module is built.
    module = with_made_up_parameters(module)
    steps = steps.of(module) if isinstance(steps, Composition) else steps
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    parameters = list(named.values())
    rows, wanted = made_up(inputs, target, module)
    losses = row_losses(module, rows, wanted, loss)
    by_row = []
    for one in losses:
        gradients = torch.autograd.grad(one, parameters, retain_graph=True, allow_unused=True)
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is None:
                raise PlanError(
                    f"parameter {name}: gets no gradient, so it cannot be clipped; use it in the forward pass, or set "
                    "requires_grad to False"
                )
        by_row.append(torch.cat([gradient.flatten() for gradient in gradients]))
    sums = engine_for(module, parameters, steps)
    wrong = PlanError(
        "module: its gradient is not the sum of its rows' gradients, so it cannot be clipped; let each row's output "
        "depend on that row alone"
    )
    truth = torch.stack(by_row).sum(0)
    with sums.attached():
        for units, single in (((0, 1, 2), True), ((0, 1, 2), False), ((0, 1, 1), False)):
            sums.add(Draw(rows, wanted, torch.tensor(units), max(units) + 1, single), loss, math.inf)
            if not torch.allclose(sums.take(), truth, rtol=1e-3, atol=1e-3 * float(truth.norm()) + 1e-7):
                raise wrong
        for chosen in ([0], [1], [2], [1, 2]):  # one unit: what is left of it points where its gradient does
            picked = {name: tensor[chosen] for name, tensor in rows.items()}
            whole = torch.stack([by_row[row] for row in chosen]).sum(0)
            clip = 0.5 * float(whole.norm())
            if not clip > 0:
                continue
            for single in {len(chosen) == 1, False}:
                unit = Draw(picked, wanted[chosen], torch.zeros(len(chosen), dtype=torch.int64), 1, single)
                sums.add(unit, loss, clip)
                found = sums.take()
                along = whole * (float(whole @ found) / (4 * clip * clip))
                if float(found.norm()) > clip * 1.001 or float((found - along).norm()) > 2e-3 * clip:
                    raise wrong
