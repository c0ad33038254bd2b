"""Book-keeping gives the clipped sums of per-row gradients, for every layer and every way rows can fall."""

import math
import warnings
from typing import cast

import pytest
import torch
from clipped_sums import MODULES, Named, brute, clipped_sum, draw_of, squared, table
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_contexts import TEST
from opacus import GradSampleModule
from torch import Tensor, nn

from privacy._engines import RowEngine, check_sums, engine_for
from privacy._optimizer import NoisyOptimizer
from privacy._rows import Draw, Rows
from privacy.bookkeeping import TERMS, BookKeeping, supports
from privacy.dp_sgd import DpSgdPlan, train_private
from privacy.errors import PlanError
from privacy.randomness import fresh_generator, seeded_generator

torch.set_num_threads(1)


def both(name: str, draw: Draw, clip: float) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    module = MODULES[name][0]()
    parameters = list(module.parameters())
    assert supports(module) is None
    mine = clipped_sum(BookKeeping(module, parameters), draw, clip)
    rows = clipped_sum(RowEngine(module, parameters), draw, clip)
    return mine, rows


UNITS = {
    "one row each": list(range(9)),
    "one unit": [0],
    "several rows": [0, 1, 2, 0, 0, 1, 3, 2, 0],
    "a unit alone": [0, 0, 0, 0],
}


@pytest.mark.parametrize("clip", [0.05, 1.0, 1e6])
@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("name", MODULES)
def test_sums_and_norms_are_those_of_plain_autograd_row_by_row(name: str, units: str, clip: float) -> None:
    draw = draw_of(name, UNITS[units])
    module = MODULES[name][0]()
    truth, wanted = brute(module, list(module.parameters()), draw, clip, 0 if draw.single else TERMS)
    for mine, norms in both(name, draw, clip):
        # A layer at several positions counts the norms of these terms, too, and layers by the root of their squares.
        room = 2e-5 if draw.single and name not in {"positions", "wide positions", "embedding", "two towers"} else 3e-3
        assert torch.allclose(norms, wanted, rtol=room, atol=1e-6)
        assert float((mine - truth).norm()) <= room * float(truth.norm()) + 1e-6


@pytest.mark.parametrize("name", ["linear", "conv2d", "layer norm", "group norm"])
def test_sums_are_those_of_opacus_where_a_unit_is_a_row(name: str) -> None:
    module, draw = MODULES[name][0](), draw_of(name, UNITS["one row each"])
    mine, _ = clipped_sum(BookKeeping(module, list(module.parameters())), draw, 0.3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        hooked = GradSampleModule(module, loss_reduction="sum")
        squared(hooked(draw.inputs), draw.target).sum().backward()  # type: ignore[no-untyped-call]
    per_row = torch.cat([p.grad_sample.flatten(1) for p in module.parameters()], dim=1)
    factors = (0.3 / (per_row.norm(dim=1) + 1e-6)).clamp(max=1)
    assert torch.allclose(mine, per_row.mT @ factors, rtol=1e-4, atol=1e-5)


def test_the_padding_row_of_an_embedding_gets_no_gradient() -> None:
    # Autograd leaves the padding row out; Opacus' sampler counts it. The clip must see what is trained.
    module = Named(nn.Embedding(6, 4, padding_idx=0), nn.Linear(4, 3))
    inputs, target = table("embedding", 5)
    each = []
    for row in range(5):
        module.zero_grad()
        squared(module({"x": inputs["x"][row : row + 1]}), target[row : row + 1]).sum().backward()  # type: ignore[no-untyped-call]
        each.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]))
    module.zero_grad()
    wanted = torch.stack([g * min(1.0, 0.7 / float(g.norm())) for g in each]).sum(0)
    draw = Draw(inputs, target, torch.arange(5), 5, single=True)
    mine, _ = clipped_sum(BookKeeping(module, list(module.parameters())), draw, 0.7)
    assert torch.allclose(mine, wanted, atol=2e-3)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.sampled_from(sorted(MODULES)), st.floats(-3, 3))
def test_no_unit_adds_more_than_the_clip(units: list[int], name: str, power: float) -> None:
    present = sorted(set(units))
    draw = draw_of(name, [present.index(unit) for unit in units], 10**power)
    module = MODULES[name][0]()
    whole, norms = clipped_sum(BookKeeping(module, list(module.parameters())), draw, 0.7)
    assert len(norms) == len(present)
    assert float(whole.norm()) <= 0.7 * len(present) * (1 + 1e-5)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("name", ["linear", "wide"])
def test_rows_of_a_unit_that_cancel_hide_nothing(name: str, size: float) -> None:
    # Two rows with huge opposite gradients and a third: in float32 a Gram matrix would lose the third's part.
    module = MODULES[name][0]()
    x = torch.randn(1, MODULES[name][1][0], generator=seeded_generator("cancel"))
    with torch.no_grad():
        here = module({"x": x})
    inputs = {"x": torch.cat([x, x, x])}
    target = torch.cat([here + size, here - size, here + 3.0])
    (mine, norms), _ = both(name, Draw(inputs, target, torch.zeros(3, dtype=torch.int64), 1, single=False), 1.0)
    alone = Draw({"x": x}, target[2:], torch.arange(1), 1, single=True)
    _, truth = brute(module, list(module.parameters()), alone, 1.0, 0)
    assert float(mine.norm()) <= 1 + 1e-5
    assert float(norms) >= float(truth) * (1 - 1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("name", ["linear", "wide positions", "conv1d", "layer norm"])
def test_a_unit_that_is_not_finite_adds_zero(name: str, bad: float) -> None:
    draw = draw_of(name, list(range(6)))
    draw.target[3] = bad
    (mine, norms), _ = both(name, draw, 1.0)
    keep = [0, 1, 2, 4, 5]
    rest = Draw({"x": draw.inputs["x"][keep]}, draw.target[keep], torch.arange(5), 5, single=True)
    (wanted, _), _ = both(name, rest, 1.0)
    assert torch.allclose(mine, wanted, atol=1e-5)
    assert float(norms[3]) == 0


@pytest.mark.parametrize("name", MODULES)
def test_an_empty_draw_and_gradients_of_zero_sum_to_zero(name: str) -> None:
    module = MODULES[name][0]()
    engine = BookKeeping(module, list(module.parameters()))
    total, norms = clipped_sum(engine, draw_of(name, []), 1.0)
    assert not total.any()
    assert len(norms) == 0
    for units in ([0], [0, 1, 2, 3], [0, 1, 1, 0]):
        draw = draw_of(name, units)
        with torch.no_grad():
            exact = draw._replace(target=module(draw.inputs))
        total, norms = clipped_sum(engine, exact, 1.0)
        assert float(total.norm()) <= 1e-3  # the same row in a batch of another size rounds differently
        assert float(norms.max()) <= 1e-3


@pytest.mark.parametrize("units", ["one row each", "several rows"])
@pytest.mark.parametrize("name", MODULES)
def test_what_is_frozen_stays_out(name: str, units: str) -> None:
    draw = draw_of(name, UNITS[units])
    names = [parameter for parameter, _ in MODULES[name][0]().named_parameters()]
    for kept in ([names[0]], [names[-1]], names[1:]):
        module = MODULES[name][0]()
        for parameter, tensor in module.named_parameters():
            tensor.requires_grad = parameter in kept
        parameters = [tensor for tensor in module.parameters() if tensor.requires_grad]
        mine, norms = clipped_sum(BookKeeping(module, parameters), draw, 0.5)
        truth, wanted = brute(module, parameters, draw, 0.5, 0 if draw.single else TERMS)
        assert len(mine) == sum(tensor.numel() for tensor in parameters)
        assert torch.allclose(norms, wanted, rtol=3e-3, atol=1e-6)
        assert torch.allclose(mine, truth, rtol=3e-3, atol=3e-3 * float(truth.norm()))


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # torch: RMSNorm has no fused kernel for two types
@pytest.mark.parametrize("name", MODULES)
def test_mixed_precision_clips_in_the_type_of_the_parameters(name: str) -> None:
    module = MODULES[name][0]()
    draw = draw_of(name, list(range(8)))
    draw.target.add_(50)  # no residual near zero, whose sign eight bits would not tell

    def autocast_loss(output: Tensor, wanted: Tensor) -> Tensor:
        return squared(output.float(), wanted)

    engine = BookKeeping(module, list(module.parameters()))
    with engine.attached(), torch.autocast("cpu", dtype=torch.bfloat16):
        engine.add(draw, autocast_loss, 0.5)
    mixed = engine.take().clone()
    exact, _ = clipped_sum(engine, draw, 0.5)
    assert mixed.dtype == torch.float32
    assert float(mixed.norm()) <= 8 * 0.5 * (1 + 1e-5)
    assert float((mixed - exact).norm()) <= 0.2 * float(exact.norm()) + 1e-3


class Residual(nn.Module):
    """Two layers whose outputs are added: autograd hands both the same tensor as gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 32)
        self.second = nn.Linear(5, 32)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, self.first(inputs["x"]) + self.second(inputs["x"])).sum(1)


def test_layers_whose_outputs_are_added_are_clipped_once() -> None:
    module = Residual()
    parameters = list(module.parameters())
    inputs, target = table("linear", 300)
    draw = Draw(inputs, target, torch.arange(300), 300, single=True)
    mine, _ = clipped_sum(BookKeeping(module, parameters), draw, 0.5)
    truth, _ = brute(module, parameters, draw, 0.5, 0)
    assert torch.allclose(mine, truth, rtol=1e-4, atol=1e-4)


def test_a_sum_starts_from_zero_after_it_was_taken() -> None:
    module = MODULES["linear"][0]()
    engine = BookKeeping(module, list(module.parameters()))
    first, _ = clipped_sum(engine, draw_of("linear", [0, 1]), 0.5)
    once = first.clone()
    assert not engine.take().any()
    again, _ = clipped_sum(engine, draw_of("linear", [0, 1]), 0.5)
    assert torch.equal(once, again)
    empty, _ = clipped_sum(engine, draw_of("linear", []), 0.5)
    assert not empty.any()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, self.second(torch.tanh(self.first(inputs["x"])))).sum(1)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, self.layer(torch.tanh(self.layer(inputs["x"])))).sum(1)


class Outside(nn.Module):
    """Uses a layer's parameter behind the layer's back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return cast(Tensor, torch.tanh(self.layer(inputs["x"])) @ self.layer.weight).sum(1)


def test_what_does_not_fit_is_taken_row_by_row(caplog: pytest.LogCaptureFixture) -> None:
    assert "in place" in str(supports(Named(nn.Linear(5, 4), nn.ReLU(inplace=True))))
    assert "shares" in str(supports(Tied()))
    assert "no rule for LSTM" in str(supports(nn.LSTM(3, 4)))
    with caplog.at_level("INFO", logger="privacy"):
        assert isinstance(engine_for(Tied(), list(Tied().parameters())), RowEngine)
    assert "row by row" in caplog.text
    draw = draw_of("linear", UNITS["several rows"])
    for module in (Tied(), Twice(), Outside()):
        check_sums(module, draw.inputs, draw.target, squared)
        parameters = list(module.parameters())
        assert supports(module)
        mine, norms = clipped_sum(engine_for(module, parameters), draw, 0.5)
        truth, wanted = brute(module, parameters, draw, 0.5, TERMS)
        assert torch.allclose(norms, wanted, rtol=2e-5, atol=1e-6)
        assert torch.allclose(mine, truth, rtol=1e-4, atol=1e-5)


def test_a_wrong_rule_is_seen_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, target = table("linear", 4)
    module = MODULES["linear"][0]()
    check_sums(module, inputs, target, squared)
    monkeypatch.setattr(BookKeeping, "_norms", lambda self, count, *_: torch.zeros(count))  # nothing would be clipped
    with pytest.raises(PlanError, match="sum of its rows"):
        check_sums(module, inputs, target, squared)


@pytest.mark.parametrize("units", ["one row each", "several rows"])
def test_pieces_bound_memory_and_change_no_sum(units: str) -> None:
    inputs, target = table("linear", 9)
    index = torch.tensor(UNITS[units])
    rows = Rows(inputs, target, index, int(index.max()) + 1)
    module = MODULES["linear"][0]()
    engine = BookKeeping(module, list(module.parameters()))
    sums = []
    for most in (1, 3, 100):
        with engine.attached():
            pieces = list(rows.draws(torch.arange(rows.n_units), most))
            for piece in pieces:
                engine.add(piece, squared, 0.5)
        sums.append(engine.take().clone())
        assert sum(piece.units for piece in pieces) == rows.n_units
        assert all(len(piece.place) <= most or piece.units == 1 for piece in pieces)
    assert torch.allclose(sums[0], sums[2], atol=1e-6)
    assert torch.allclose(sums[1], sums[2], atol=1e-6)


def test_the_optimizer_is_that_of_opacus() -> None:
    from opacus.accountants import RDPAccountant
    from opacus.optimizers import DPOptimizer

    module = MODULES["linear"][0]()
    accountant = RDPAccountant()
    parameters = list(module.parameters())
    optimizer = NoisyOptimizer(
        torch.optim.SGD(parameters, lr=1.0),
        parameters,
        noise_multiplier=1.5,
        max_grad_norm=1.0,
        expected_batch_size=4.0,
        generator=fresh_generator(TEST),
        secure=False,
    )
    assert isinstance(optimizer, DPOptimizer)
    optimizer.attach_step_hook(accountant.get_optimizer_hook_fn(0.25))
    for _ in range(3):
        optimizer.step()
    assert accountant.history == [(1.5, 0.25, 3)]


def test_noise_and_draws_are_the_same_with_either_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, target = table("linear", 40)
    plan = DpSgdPlan(noise_multiplier=1.0, clip=0.5, sampling_rate=0.3, declared_units=40, steps=5)
    models = []
    for forced in (False, True):
        if forced:
            monkeypatch.setattr("privacy.dp_sgd.known", lambda _module: "asked to")
        module = MODULES["linear"][0]()
        train_private(
            module,
            inputs,
            target,
            torch.arange(40),
            40,
            squared,
            lambda parameters: torch.optim.SGD(parameters, lr=0.1),
            plan,
            seeded_generator("simulation"),
        )
        models.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.allclose(models[0], models[1], atol=1e-5)
