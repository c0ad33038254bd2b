"""Modules, rows and brute-force sums for the tests of book-keeping."""

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from clients import networks
from clients.dataset import Table
from clients.shapes import Items
from privacy._engines import Engine, engine_for
from privacy._rows import Draw, Loss, Rows
from privacy.dp_sgd import check_module
from privacy.randomness import seeded_generator


class Named(nn.Module):
    """Take named tensors, as industries' modules do."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        generator = seeded_generator("bookkeeping")
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, self.layers(inputs["x"])).flatten(1).sum(1)


class Maps(nn.Module):
    """Average every channel over its places, (n, channels, height, width) -> (n, channels), by a tensor's methods."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh().flatten(2).mean(2)


def squared(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target) ** 2


def two_towers() -> Named:
    kind = networks.get("two-tower")
    options = kind.options()
    assert kind.head is not None
    return Named(kind.build(Items(vocabulary=4, earlier=3), 6, options), kind.head(6, options))


MODULES: dict[str, tuple[Callable[[], Named], tuple[int, ...], bool]] = {
    "linear": (lambda: Named(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2, bias=False)), (5,), False),
    "wide": (lambda: Named(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 30)), (40,), False),
    "positions": (lambda: Named(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)), (3, 5), False),
    "wide positions": (lambda: Named(nn.Linear(40, 50), nn.Tanh(), nn.Linear(50, 30)), (2, 40), False),
    "embedding": (lambda: Named(nn.Embedding(6, 4), nn.Linear(4, 3)), (3,), True),
    "two towers": (two_towers, (7,), False),
    "layer norm": (lambda: Named(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 1)), (5,), False),
    "group norm": (lambda: Named(nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(20, 1)), (4, 5), False),
    "conv1d": (lambda: Named(nn.Conv1d(2, 4, 3, padding=1, groups=2), nn.Tanh(), nn.Conv1d(4, 1, 2)), (2, 6), False),
    "conv2d": (lambda: Named(nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Tanh()), (2, 5, 5), False),
    "maps": (lambda: Named(nn.Conv2d(2, 3, 3, padding=1), Maps(), nn.Linear(3, 2)), (2, 4, 5), False),
    "conv3d": (lambda: Named(nn.Conv3d(1, 2, 2), nn.Tanh()), (1, 3, 3, 3), False),
    "rms norm": (lambda: Named(nn.Linear(5, 6), nn.RMSNorm(6), nn.Tanh(), nn.Linear(6, 1)), (5,), False),
}


def table(name: str, n: int, scale: float = 1.0) -> tuple[dict[str, Tensor], Tensor]:
    _, shape, whole = MODULES[name]
    generator = seeded_generator("table", name)
    if whole:
        return {"x": torch.randint(0, 6, (n, *shape), generator=generator)}, torch.randn(n, generator=generator)
    return {"x": scale * torch.randn(n, *shape, generator=generator)}, torch.randn(n, generator=generator)


def clipped_sum(engine: Engine, draw: Draw, clip: float, loss: Loss = squared) -> tuple[Tensor, Tensor]:
    with engine.attached():
        norms = engine.add(draw, loss, clip)
        return engine.take(), norms


def brute(module: nn.Module, parameters: list[nn.Parameter], draw: Draw, clip: float, terms: float) -> list[Tensor]:
    """Sum and norms (n_units,) by plain autograd, row by row in float64; `terms` is the share of the rows' norms."""
    module = copy.deepcopy(module).double()
    wanted = [p for p in module.parameters() if p.requires_grad]
    assert len(wanted) == len(parameters)
    rows = []
    for row in range(len(draw.place)):
        x = draw.inputs["x"][row : row + 1]
        output = module({"x": x.double() if x.is_floating_point() else x})
        loss = squared(output, draw.target[row : row + 1].double()).sum()
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
        rows.append(
            torch.cat(
                [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(gradients, wanted, strict=True)]
            )
        )
    total, norms = torch.zeros(sum(p.numel() for p in wanted)).double(), []
    for unit in range(draw.units):
        own = [g for g, place in zip(rows, draw.place.tolist(), strict=True) if place == unit]
        whole = torch.stack(own).sum(0)
        norms.append(float(whole.norm()) + terms * sum(float(g.norm()) for g in own))
        total += whole * min(1.0, clip / (norms[-1] + 1e-6))
    return [total.float(), torch.tensor(norms)]


def check_network(module: nn.Module, table: Table, loss: Loss, wanted_engine: type, atol: float) -> None:
    """Hold the clipped sum and the norms of 40 rows, a unit each, against one backward pass a row."""
    steps = check_module(module, table.inputs, table.target, loss)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    engine = engine_for(module, parameters, steps)
    assert isinstance(engine, wanted_engine)
    (piece,) = Rows(table.inputs, table.target, torch.arange(40), 40, single=True).draws(torch.arange(40), 100)
    each = []
    for row in range(40):
        losses = loss(module({"features": table.inputs["features"][row : row + 1]}), table.target[row : row + 1])
        each.append(torch.cat([one.flatten() for one in torch.autograd.grad(losses.sum(), parameters)]))
    norms = torch.stack(each).norm(dim=1)
    clip = float(norms.median())
    with engine.attached():
        assert torch.allclose(engine.add(piece, loss, clip), norms, rtol=1e-4)
        wanted = (torch.stack(each) * (clip / norms).clamp(max=1).unsqueeze(1)).sum(0)
        assert torch.allclose(engine.take(), wanted, atol=atol)


def draw_of(name: str, units: list[int], scale: float = 1.0) -> Draw:
    inputs, target = table(name, len(units), scale)
    count = max(units) + 1 if units else 0
    place = torch.tensor(units, dtype=torch.int64)
    return Draw(inputs, target, place, count, single=units == list(range(count)))
