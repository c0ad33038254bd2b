"""What a hostile reader tried against the claim that a unit's part depends on its own rows alone."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from privacy import _layer
from privacy._composition import known
from privacy._conditions import PLAIN
from privacy._engines import RowEngine, engine_for
from privacy._layer import steady_layer
from privacy._one_row import OneRow
from privacy._rows import Rows
from privacy.bookkeeping import supports
from privacy.dp_sgd import check_module
from privacy.errors import PlanError
from privacy.rowwise import outputs
from privacy.secure_noise import SLACK

torch.set_num_threads(1)


class Own(nn.Module):
    """`call` is what the forward does with the rows."""

    def __init__(self, *layers: nn.Module, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        type(self).call = staticmethod(call)  # type: ignore[attr-defined]

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        found: Tensor = type(self).call(self.layers, inputs["x"])  # type: ignore[attr-defined]
        return found


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output.flatten(1).sum(1) - target) ** 2


def total(module: nn.Module, x: Tensor, clip: float) -> Tensor:
    engine = engine_for(module, [p for p in module.parameters() if p.requires_grad])
    rows = Rows({"x": x}, torch.ones(len(x), dtype=x.dtype), torch.arange(len(x)), len(x), single=True)
    with engine.attached():
        for piece in rows.draws(torch.arange(len(x)), 8192):
            engine.add(piece, squared, clip)
        return engine.take().clone()


@pytest.mark.parametrize(
    ("layers", "call"),
    [
        ([nn.Linear(4, 2)], lambda layers, x: torch.flatten(layers[0](x), end_dim=1)),
        ([nn.Linear(4, 2)], lambda layers, x: layers[0](x).flatten(0)),
        ([nn.Linear(4, 2)], lambda layers, x: layers[0](x).flatten(-2)),
        ([nn.Linear(4, 2)], lambda layers, x: layers[0](x).sum(keepdim=True)),
        ([nn.Linear(4, 2)], lambda layers, x: layers[0](x).mean(0)),
        ([nn.Linear(4, 2)], lambda layers, x: layers[0](layers[0](x).repeat(1, 2))),
        ([nn.Linear(4, 2)], lambda layers, x: layers[0](x).clamp(x[:, :1])),
        ([nn.Linear(4, 2)], lambda layers, x: layers[0](x)[:, 0].clamp(0, x[:, :1])),
        ([nn.Linear(4, 2)], lambda layers, x: layers[0](x)[1:]),
        ([nn.Linear(4, 2)], lambda layers, x: layers[0](x)[1:, :]),
        ([nn.Linear(4, 2)], lambda layers, x: layers[0](x)[:, x.long()[:, 0]]),
        ([nn.Linear(4, 2)], lambda layers, x: layers[0](x)[None]),
        ([nn.Linear(4, 2)], lambda layers, x: layers[0](x).unsqueeze(0)),
        ([nn.Linear(4, 2)], lambda layers, x: layers[0](x).unsqueeze(-3)),
        ([nn.Linear(4, 2)], lambda layers, x: torch.cat((layers[0](x), x))),
        ([nn.Linear(4, 2)], lambda layers, x: torch.cat((layers[0](x), x), -2)),
        ([nn.Linear(4, 2)], lambda layers, x: nn.functional.elu(layers[0](x), alpha=x)),  # type: ignore[arg-type]
    ],
)
def test_a_step_that_may_mix_rows_is_not_known(layers: list[nn.Module], call: Callable[[Any, Tensor], Tensor]) -> None:
    assert supports(Own(*layers, call=call))


def test_borders_of_a_clamp_do_not_hand_each_row_all_others() -> None:
    # Asleep until weights are large, which no example with made-up weights sees.
    def call(layers: Any, x: Tensor) -> Tensor:
        numbers = layers[0](x)
        awake = layers[1](numbers - 3e5)
        return awake[:, 1].clamp(awake[:, :1]).mean(1).unsqueeze(1) + numbers[:, 2:3]  # type: ignore[no-any-return]

    module = Own(nn.Linear(2, 3), nn.ReLU(), call=call).double()
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)).double()
    check_module(module, {"x": x}, torch.ones(30).double(), squared)
    with torch.no_grad():
        linear = cast(nn.Linear, cast(nn.ModuleList, module.layers)[0])
        linear.weight.copy_(torch.tensor([[0.1, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        linear.bias.copy_(torch.tensor([3e5 + 0.5, 3e5 + 0.5, 0.0]))
    whole = total(module, x, 0.1)
    moved = [float((whole - total(module, x[torch.arange(30) != one], 0.1)).norm()) for one in range(30)]
    assert max(moved) <= 0.1 * (1 + SLACK)


def test_hooks_functions_and_parameters_of_somebodys_own_are_not_known() -> None:
    def linear() -> nn.Linear:
        return nn.Linear(4, 2)

    hooked = linear()
    hooked.register_full_backward_pre_hook(lambda *_: None)
    convolution = nn.Conv1d(1, 1, 1)
    convolution._conv_forward = lambda *rest: rest[0]  # type: ignore[method-assign]
    odd = linear()
    odd.weight = type("Weight", (nn.Parameter,), {})(odd.weight.detach())
    assert supports(linear()) is None
    assert all(supports(module) for module in (hooked, convolution, odd))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert supports(linear())
    finally:
        handle.remove()


@pytest.mark.parametrize("layer", [nn.LayerNorm((256, 1), elementwise_affine=False), nn.Linear(256, 256)])
def test_a_layer_of_the_size_of_a_pass_does_not_take_rows_for_positions(layer: nn.Module) -> None:
    def call(layers: Any, x: Tensor) -> Tensor:
        first = layers[0](x)
        found: Tensor = layers[1](first if isinstance(layers[1], nn.LayerNorm) else first.sum(1))
        return found

    module = Own(nn.Linear(1, 1), layer, call=call)
    with pytest.raises(PlanError, match="mixes rows"):
        outputs(module, {"x": torch.randn(200, 1)})


def test_a_layer_after_the_last_dense_one_does_not_either() -> None:
    layer = nn.LayerNorm((256, 1), elementwise_affine=False)
    with pytest.raises(PlanError, match="mixes rows"):
        total(Own(nn.Linear(4, 1), layer, call=lambda layers, x: layers[1](layers[0](x))), torch.randn(200, 4), 1.0)


def test_a_layer_is_tried_with_numbers_of_its_own() -> None:
    # Activations that give zero for made-up rows once hid a layer whose kernel rounds by place.
    class ByPlace(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * (1 + 1e-15 * torch.arange(len(input)).double().unsqueeze(1))

    zeros = torch.zeros(32, 4).double()
    assert steady_layer(nn.Linear(4, 3).double(), zeros)
    assert not steady_layer(ByPlace(4, 3).double(), zeros)


@pytest.mark.parametrize(("kind", "delta", "size"), [(torch.float32, 2e-23, 1.5e19), (torch.float64, 1e-162, 1e140)])
def test_no_product_hides_behind_a_square_that_vanished(kind: torch.dtype, delta: float, size: float) -> None:
    module = Own(nn.Linear(1, 64, bias=False), call=lambda layers, x: layers[0](x)).to(kind)
    nn.init.zeros_(module.layers[0].weight)  # type: ignore[arg-type]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return output.sum(1) * delta + 0 * target

    engine = engine_for(module, list(module.parameters()))
    x = torch.full((1, 1), size, dtype=kind)
    rows = Rows({"x": x}, torch.ones(1, dtype=kind), torch.zeros(1, dtype=torch.int64), 1, single=True)
    (piece,) = rows.draws(torch.arange(1), 100)
    engine.add(piece, loss, 1e-4)
    assert float(engine.take().norm()) <= 1e-4 * (1 + SLACK)


class Batch(torch.autograd.Function):
    """An own function whose rule under vmap sees all rows."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> tuple[Tensor, int]:
        return x - x.mean(0, keepdim=True), 0


def test_an_own_function_is_not_handed_all_rows() -> None:
    module = Own(nn.Linear(4, 1), call=lambda layers, x: layers[0](Batch.apply(x))).double()
    assert isinstance(engine_for(module, list(module.parameters())), RowEngine)
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).double()
    moved = total(module, x, 0.1) - total(module, x[1:], 0.1)
    assert float(moved.norm()) <= 0.1 * (1 + SLACK)


def test_scores_leave_the_parameters_as_they_are() -> None:
    def call(layers: Any, x: Tensor) -> Tensor:
        if float(x.detach().abs().max()) > 3:
            layers[0].weight.mul_(-1)
        found: Tensor = layers[0](x)
        return found

    module = Own(nn.Linear(2, 1), call=call)
    before = module.layers[0].weight.detach().clone()  # type: ignore[union-attr, operator]
    x = torch.tensor([[1.0, 1.0], [9.0, 1.0], [1.0, 2.0]])
    with torch.no_grad():
        found, alone = OneRow(module).outputs({"x": x}), OneRow(module).outputs({"x": x[2:]})
    assert torch.equal(module.layers[0].weight, before)  # type: ignore[arg-type]
    assert torch.equal(found[2], alone[0])
    assert isinstance(known(module), str)


def test_every_pass_has_one_number_of_rows_whatever_was_drawn() -> None:
    rows = Rows({"x": torch.randn(300, 2)}, torch.ones(300), torch.arange(300), 300, single=True, expected=40.0)
    pieces = [next(iter(rows.draws(torch.arange(drawn), 8192))) for drawn in (1, 40, 77, 300)]
    assert {piece.together for piece in pieces} == {pieces[0].together}
    assert all(len(piece.target) % piece.together == 0 for piece in pieces)


@pytest.mark.parametrize("drawn", [70, 130])
def test_a_sampler_sees_as_many_rows_as_a_pass_has(drawn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels go by shapes: if all drawn rows were one batch, one unit less could round all others in another way."""
    seen: set[int] = set()
    sampler = _layer.samplers()[nn.Conv1d]

    def listening(layer: nn.Conv1d, inputs: list[Tensor], delta: Tensor) -> Any:
        seen.add(len(delta))
        return sampler(layer, inputs, delta)

    module = Own(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3), call=lambda layers, x: layers[1](layers[0](x)))
    engine = engine_for(module, list(module.parameters()))
    x = torch.randn(drawn, 5)
    rows = Rows({"x": x}, torch.ones(drawn), torch.arange(drawn), drawn, single=True, expected=20.0)
    (piece,) = rows.draws(torch.arange(drawn), 8192)
    with engine.attached():
        engine.add(piece, squared, 1.0)  # finds out how many rows a pass has
        monkeypatch.setitem(_layer.samplers(), nn.Conv1d, listening)
        engine.add(piece, squared, 1.0)
    assert len(seen) == 1
    assert seen.pop() <= piece.together < len(piece.target)


def test_opacus_has_no_word_against_the_layers_that_it_is_not_asked_about() -> None:
    """`check_layers` then need not load it; it is still asked about any other type, and each subclass."""
    from opacus.validators import ModuleValidator

    assert not PLAIN & set(ModuleValidator.VALIDATORS)
    assert {nn.LSTM, nn.GRU, nn.MultiheadAttention, nn.InstanceNorm1d} <= set(ModuleValidator.VALIDATORS)


def test_public_numbers_set_the_rows_of_a_pass_and_a_row_gets_the_same_bits_in_each() -> None:
    module = Own(nn.Linear(3, 6), nn.Linear(6, 1), call=lambda layers, x: layers[1](torch.tanh(layers[0](x)).cumsum(1)))
    x, y = torch.randn(90, 3), torch.randn(90)
    whole = OneRow(module)
    found = whole.gradients({"x": x}, y, squared, 96)
    fewer = OneRow(module).gradients({"x": x[50:53]}, y[50:53], squared, 96)
    assert all(torch.equal(gradient[50:53], fewer[name]) for name, gradient in found.items())
    assert set(whole._together.values()) == {96}
    for expected, rows in ((32, 32), (96, 96), (288, 288), (640, 320), (8192, 512)):
        asked = OneRow(module)
        asked.gradients({"x": x[:2]}, y[:2], squared, expected)
        assert set(asked._together.values()) == {rows}
    large = OneRow(nn.Sequential(module, nn.Linear(130, 130)))
    assert (whole._most, large._most) == (512, 32)
