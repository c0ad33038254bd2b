"""Small modules, rows and plans for the tests of the DP step."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from noise_contexts import TEST
from torch import Tensor, nn

from privacy.dp_sgd import DpSgdPlan, StepReport, train_private
from privacy.randomness import fresh_generator, seeded_generator

torch.set_num_threads(1)
SILENT = 1e-12


class Model(nn.Module):
    """encoder and a (private) head, taking named tensors."""

    def __init__(self, width: int = 3, hidden: int = 4) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, hidden)
        self.head = nn.Linear(hidden, 1)
        generator = seeded_generator("model")
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, self.head(torch.tanh(self.encoder(inputs["features"]))))


class Linear(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, self.head(inputs["features"]))


def squared(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output[:, 0] - target) ** 2


def sgd(rate: float = 1.0) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


def plan(**changes: Any) -> DpSgdPlan:
    values: dict[str, Any] = {
        "noise_multiplier": SILENT,
        "clip": 1.0,
        "sampling_rate": 1.0,
        "declared_units": 10,
        "steps": 1,
    }
    return DpSgdPlan(**{**values, **changes})


def rows(n: int = 12, width: int = 3) -> tuple[dict[str, Tensor], Tensor]:
    generator = seeded_generator("rows")
    return {"features": torch.randn(n, width, generator=generator)}, torch.randn(n, generator=generator)


def run(
    module: nn.Module, inputs: dict[str, Tensor], target: Tensor, units: Tensor, a_plan: DpSgdPlan, **changes: Any
) -> StepReport:
    n_units = changes.pop("n_units", int(units.max()) + 1 if len(units) else 0)
    values: dict[str, Any] = {
        "loss": squared,
        "make_optimizer": sgd(),
        "plan": a_plan,
        "generator": fresh_generator(TEST),
    }
    return train_private(module, inputs, target, units, n_units, **{**values, **changes})


def flat(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def moved(module: nn.Module, *arguments: Any, **changes: Any) -> Tensor:
    """The update with learning rate 1: minus the noisy mean gradient, over all parameters in one vector."""
    before = flat(module).clone()
    run(module, *arguments, **changes)
    return before - flat(module)


def by_hand(
    module: nn.Module, inputs: dict[str, Tensor], target: Tensor, groups: list[list[int]], clip: float
) -> Tensor:
    """Sum over `groups` of rows of the group's summed gradient, clipped; by plain autograd."""
    total = torch.zeros_like(flat(module))
    for group in groups:
        module.zero_grad()
        squared(module({"features": inputs["features"][group]}), target[group]).sum().backward()  # type: ignore[no-untyped-call]
        gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        total += gradient * min(1.0, clip / float(gradient.norm()))
    module.zero_grad()
    return total
