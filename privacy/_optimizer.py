"""The one way to add noise to a clipped sum. Import it only to train: Opacus takes 1.5 seconds of CPU to load."""

from typing import Any

import torch
from opacus.optimizers import DPOptimizer
from torch import nn

from privacy._gaussian import fill_normal
from privacy.errors import PlanError
from privacy.observation import tell
from privacy.randomness import FreshNoise
from privacy.secure_noise import Grid

__all__ = ["NoisyOptimizer"]


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
            raise PlanError("generator: secure noise wants fresh_generator(context), got one from a seed")
        self._parameters: list[torch.Tensor] = list(parameters)
        self._noisy = torch.zeros(sum(p.numel() for p in parameters)).to(parameters[0])
        parts = torch.split(self._noisy, [p.numel() for p in parameters])
        self._parts = [part.view_as(p) for p, part in zip(parameters, parts, strict=True)]
        self.total = self._noisy
        self._rate = _plain_rate(optimizer)

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

    def step(self, closure: Any = None) -> Any:
        """Take one step; plain gradient descent without what torch's optimizers do around it (a tenth of a step)."""
        if self._rate is None:
            return super().step(closure)
        self.pre_step()
        with torch.no_grad():
            torch._foreach_add_(self._parameters, self._parts, alpha=-self._rate)
        return None

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


def _plain_rate(optimizer: torch.optim.Optimizer) -> float | None:
    """Return the learning rate where a step is ``p <- p - rate g`` and nothing else, or None."""
    if type(optimizer) is not torch.optim.SGD or len(optimizer.param_groups) != 1:
        return None
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return None
    settings = {name: value for name, value in optimizer.param_groups[0].items() if name != "params"}
    rate = settings.pop("lr")
    plain = type(rate) is float and not any(settings.values())
    return rate if plain else None
