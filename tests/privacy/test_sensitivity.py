"""One unit moves a clipped sum by at most its clip, whichever others are there, with hostile models and odd data."""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from clients import registry
from clients.industry import effective_schema
from clients.models import build, loss_for, predictions
from clients.spec import ModelSpec
from privacy import _units, bookkeeping
from privacy._engines import RowEngine, engine_for
from privacy._rows import Rows
from privacy.bookkeeping import supports
from privacy.dp_sgd import check_module
from privacy.errors import PlanError
from privacy.randomness import seeded_generator
from privacy.rowwise import outputs
from privacy.secure_noise import SLACK
from privacy.secure_sum import gradient
from privacy.secure_sum.gradient import clipped_sum

torch.set_num_threads(1)
Loss = Callable[[Tensor, Tensor], Tensor]


def network(industry: str, hidden: tuple[int, ...], norm: str = "none") -> tuple[nn.Module, Loss, int]:
    client = registry.get(industry)
    width = effective_schema(client, filter="").width
    spec = ModelSpec(kind="mlp" if hidden else "linear", hidden=hidden, norm=norm)  # type: ignore[arg-type]
    module = build(client, spec, width, seeded_generator("sensitivity", industry))
    return module, loss_for(client.schema.target), width


CHECKED: dict[object, Any] = {}


@contextlib.contextmanager
def checked_once(kind: object) -> Iterator[None]:
    """Let `clipped_sum` check modules of one structure once: a check sees made-up rows and parameters only."""

    def once(module: nn.Module, *rest: Any) -> Any:
        if kind not in CHECKED:
            CHECKED[kind] = check_module(module, *rest)
        return CHECKED[kind]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient, "check_module", once)
        yield


def total(module: nn.Module, x: Tensor, y: Tensor, unit: Tensor, loss: Loss, clip: float) -> Tensor:
    """The float64 sum before noise, as deployed."""
    twin = copy.deepcopy(module).double()
    rows = Rows({"features": x}, y, unit, int(unit.max()) + 1 if len(unit) else 0).doubled()
    engine = engine_for(twin, list(twin.parameters()))
    with engine.attached():
        for piece in rows.draws(torch.arange(rows.n_units), 8192):
            engine.add(piece, loss, clip)
        return engine.take().clone()


def without(unit: Tensor, gone: int) -> tuple[Tensor, Tensor]:
    keep = unit != gone
    rest = unit[keep]
    return keep, torch.where(rest > gone, rest - 1, rest)


@pytest.mark.parametrize("n", [1000, 20000])
def test_a_unit_with_more_rows_than_the_others_moves_one_clip(n: int) -> None:
    # Its two rows once changed the way in which all other norms were computed.
    module, loss, width = network("bank", ())
    generator = torch.Generator().manual_seed(1)
    x = torch.cat([1 + 0.1 * torch.randn(n, width, generator=generator), torch.ones(2, width)])
    y = torch.cat([torch.zeros(n), torch.ones(2)])
    unit = torch.cat([torch.arange(n), torch.tensor([n, n])])
    moved = total(module, x, y, unit, loss, 1.0) - total(module, x[:n], y[:n], unit[:n], loss, 1.0)
    assert float(moved.norm()) <= 1 + SLACK


@pytest.mark.parametrize("hidden", [(8,), (32, 16)])
def test_rows_that_cancel_in_a_hostile_model_move_one_clip(hidden: tuple[int, ...]) -> None:
    # Units whose two rows cancel to rounding: another path to their norms decided whether they were clipped.
    module, loss, width = network("factory", hidden)
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        layers[0].weight.mul_(0.1)
        half = layers[-2].out_features // 2
        layers[-2].weight[half:] = layers[-2].weight[:half]
        layers[-2].bias[half:] = layers[-2].bias[:half]
        layers[-1].weight[:, :half], layers[-1].weight[:, half:] = 1e6, -1e6
        layers[-1].bias.zero_()
    x = torch.full((200, width), 0.5)
    x[1::2, 0] += 5e-7
    unit, y = torch.arange(100).repeat_interleave(2), torch.tensor([0.0, 1.0]).repeat(100)
    more = 7
    large = torch.cat([x, torch.zeros(more, width)]), torch.cat([y, torch.zeros(more)])
    both = total(module, *large, torch.cat([unit, torch.full((more,), 100)]), loss, 0.5)
    assert float((both - total(module, x, y, unit, loss, 0.5)).norm()) <= 0.5 * (1 + SLACK)


def chaotic(industry: str, hidden: tuple[int, ...]) -> tuple[nn.Module, Loss, int]:
    """A network whose third layer sees rounding alone, and whose next ones amplify it."""
    module, loss, width = network(industry, hidden)
    generator = torch.Generator().manual_seed(3)
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        half = layers[0].out_features // 2
        layers[0].weight[half:] = layers[0].weight[:half]
        layers[0].bias[half:] = layers[0].bias[:half]
        row = (torch.rand(half, generator=generator) * 0.5 + 0.5) * 1e6
        layers[1].weight[:] = torch.cat([row, -row])
        layers[1].bias.zero_()
        for layer in layers[2:]:
            layer.weight.fill_(1e6)
            layer.bias.zero_()
    return module, loss, width


@pytest.mark.parametrize("hidden", [(64, 64, 64), (32, 16)])
def test_rounding_that_a_deep_model_amplifies_stays_in_its_row(hidden: tuple[int, ...]) -> None:
    module, loss, width = chaotic("factory", hidden)
    x = torch.randn(100, width, generator=torch.Generator().manual_seed(7))
    sums = [total(module, x[:n], torch.zeros(n), torch.arange(n), loss, 0.5) for n in range(60, 100)]
    moved = [float((more - less).norm()) for less, more in itertools.pairwise(sums)]
    assert max(moved) <= 0.5 * (1 + SLACK)


def test_a_score_that_leaves_in_a_histogram_goes_by_its_own_row() -> None:
    # A model that amplifies rounding once moved other units to other cells when one unit left.
    module, _, width = chaotic("factory", (64, 64, 64))
    x = torch.randn(100, width, generator=torch.Generator().manual_seed(7))
    finish = lambda output: predictions(module.target, output)  # type: ignore[arg-type]  # noqa: E731
    whole = outputs(module, {"features": x}, finish)
    for n in (1, 31, 77, 99):
        assert torch.equal(outputs(module, {"features": x[:n]}, finish), whole[:n])
        assert torch.equal(outputs(module, {"features": x[n:]}, finish), whole[n:])


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=24)


@settings(max_examples=25, deadline=None)
@given(
    SIZES,
    st.sampled_from([((), "none"), ((5,), "none"), ((8, 4), "none"), ((6,), "layer"), ((16, 16, 16), "none")]),
    st.sampled_from(["plain", "cancelling", "huge", "tiny", "not finite"]),
    st.integers(0, 10**6),
)
def test_the_neighbour_game(sizes: list[int], kind: tuple[tuple[int, ...], str], data: str, seed: int) -> None:
    module, loss, width = network("bank", *kind)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 10.0 ** float(torch.randint(-3, 7, (), generator=generator))
            parameter.copy_(torch.randn(parameter.shape, generator=generator).mul_(scale).clamp_(-1e6, 1e6))
    unit = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    x = torch.randn(len(unit), width, generator=generator)
    y = torch.randint(0, 2, (len(unit),), generator=generator).float()
    if data == "cancelling":
        x = x[:1].expand_as(x) + 1e-7 * x
        y = torch.arange(len(unit)).remainder(2).float()
    x = x * {"huge": 1e8, "tiny": 1e-30}.get(data, 1.0)
    if data == "not finite":
        x[0, 0] = torch.inf
    gone = seed % len(sizes)
    keep, rest = without(unit, gone)
    large = total(module, x, y, unit, loss, 0.3)
    small = total(module, x[keep], y[keep], rest, loss, 0.3)
    assert float((large - small).norm()) <= 0.3 * (1 + SLACK)
    with checked_once(kind):
        sums = {
            n: clipped_sum(module, {"features": x[k]}, y[k], u, int(u.max()) + 1 if len(u) else 0, loss,
                           sampling_rate=1.0, clip=0.3, generator=seeded_generator("all")).by_name
            for n, k, u in (("large", torch.ones_like(keep), unit), ("small", keep, rest))
        }  # fmt: skip
    moved = torch.cat([(sums["large"][name] - tensor).flatten() for name, tensor in sums["small"].items()])
    assert float(moved.norm()) <= 0.3 * (1 + 1e-9)


def test_where_a_place_in_a_pass_matters_rows_are_passed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Kernels that round a row by its place are found before the first sum, and smaller passes are taken.
    module, loss, width = chaotic("factory", (32, 16))
    real = torch.addmm

    def by_place(bias: Tensor, weight: Tensor, rows: Tensor, *, out: Tensor) -> Tensor:
        places = 1 + 1e-15 * torch.arange(out.shape[1], dtype=torch.float64) % 5e-15
        return real(bias, weight, rows, out=out).mul_(places)

    monkeypatch.setattr(torch, "addmm", by_place)
    monkeypatch.setattr(bookkeeping, "_found_steady", {})
    x = torch.randn(70, width, generator=torch.Generator().manual_seed(7))
    moved = total(module, x, torch.zeros(70), torch.arange(70), loss, 0.5)
    moved -= total(module, x[1:], torch.zeros(69), torch.arange(69), loss, 0.5)
    assert float(moved.norm()) <= 0.5 * (1 + SLACK)
    assert not any(steady for (*_, size), steady in bookkeeping._found_steady.items() if size > 1)


def test_units_are_computed_in_one_number_where_their_number_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    real = _units.linear_squares

    def by_number(a: Tensor, d: Tensor, weight: bool, bias: bool) -> tuple[Tensor, Tensor]:
        squares, terms = real(a, d, weight, bias)
        return squares * (1 + 1e-6 * len(a)), terms

    monkeypatch.setattr(_units, "linear_squares", by_number)
    monkeypatch.setattr(_units, "_found_steady", {})
    a, d = torch.randn(32, 4, 3).double(), torch.randn(32, 4, 2).double()
    many, _ = _units.unit_squares(a, d, True, True)
    few, _ = _units.unit_squares(a[:8], d[:8], True, True)
    assert torch.equal(many[:8], few)


def own(mix: Callable[[Tensor], Tensor]) -> nn.Module:
    """A module of somebody's own: `mix` is what its forward does with the rows of a batch.

    It is no attribute of the module, since that alone would make the module an unknown one.
    """

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(8, 8), nn.Linear(8, 1)

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return torch.as_tensor(self.head(torch.tanh(self.first(mix(inputs["features"])))))

    return Own()


def before(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


MIXES: dict[str, Callable[[Tensor], Tensor]] = {
    "difference to the row before": lambda x: x - before(x),
    "cumulative sum": lambda x: x.cumsum(0),
    "moving average": lambda x: 0.5 * x + 0.5 * before(x),
    "row before, detached": lambda x: x + before(x).detach(),
    "mean of the batch": lambda x: x - x.mean(0, keepdim=True),
    "attention over rows": lambda x: (x @ x.mT).softmax(1) @ x,
    "another sign if one row is large": lambda x: -x if bool((x.abs() > 5).any()) else x,
    "mean of the batch if one row is very large": lambda x: x - x.mean(0) if bool((x.abs() > 1e5).any()) else x,
}


@pytest.mark.parametrize("mix", MIXES)
def test_a_module_that_mixes_rows_is_refused_or_sees_one_row(mix: str) -> None:
    module, n = own(MIXES[mix]), 12
    loss = loss_for(registry.get("bank").schema.target)
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(0))
    x[3] *= 1e6
    y, unit = torch.arange(n).remainder(2).float(), torch.arange(n)
    assert supports(module)
    if mix != "mean of the batch if one row is very large":  # no example shows that
        with pytest.raises(PlanError, match="influence each other"):
            check_module(module, {"features": x}, y, loss)
    whole = total(module, x, y, unit, loss, 0.2)
    for gone in (0, 3, 7):
        keep, rest = without(unit, gone)
        moved = whole - total(module, x[keep], y[keep], rest, loss, 0.2)
        assert float(moved.norm()) <= 0.2 * (1 + SLACK)


class Remembering(nn.Module):
    """Keeps the mean of the last batch in an attribute and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.last = nn.Linear(8, 1), torch.zeros(8)
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        x = inputs["features"]
        shifted = x - self.last.to(x) - self.seen.to(x)  # type: ignore[operator]
        self.last = x.mean(0).detach()
        self.seen = self.last
        return torch.as_tensor(self.head(shifted))


def test_what_a_module_remembers_of_a_row_is_forgotten_with_it() -> None:
    module, loss = Remembering(), loss_for(registry.get("bank").schema.target)
    x, y = torch.randn(9, 8, generator=torch.Generator().manual_seed(0)), torch.ones(9)
    with pytest.raises(PlanError):
        check_module(module, {"features": x}, y, loss)
    moved = total(module, x, y, torch.arange(9), loss, 0.2) - total(module, x[1:], y[1:], torch.arange(8), loss, 0.2)
    assert float(moved.norm()) <= 0.2 * (1 + SLACK)
    assert not module.last.any()


@pytest.mark.parametrize("recurrent", [nn.GRU, nn.LSTM])
def test_recurrent_layers_of_torch_train_row_by_row(recurrent: Callable[..., nn.Module]) -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.head = recurrent(2, 3, batch_first=True), nn.Linear(3, 1)

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            states, _ = self.cells(inputs["features"].view(-1, 4, 2))
            return torch.as_tensor(self.head(states[:, -1]))

    module, loss = Sequence(), loss_for(registry.get("bank").schema.target)
    x, y = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.ones(6)
    check_module(module, {"features": x}, y, loss)
    engine = engine_for(module, list(module.parameters()))
    assert isinstance(engine, RowEngine)
    rows = Rows({"features": x}, y, torch.arange(6), 6, single=True)
    (piece,) = rows.draws(torch.arange(6), 100)
    engine.add(piece, loss, 1e9)
    wanted = torch.autograd.grad(loss(module({"features": x}), y).sum(), list(module.parameters()))
    assert torch.allclose(engine.take(), torch.cat([one.flatten() for one in wanted]), atol=1e-5)
