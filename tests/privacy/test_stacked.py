"""Many participants in one batched step: each one's result is that of `privacy.dp_sgd` alone, and mistakes show."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from each_generator import EachGenerator
from noise_contexts import TEST
from torch import Tensor, nn

from privacy import stacked
from privacy.dp_sgd import DpSgdPlan, PlainPlan, train_plain, train_private
from privacy.errors import PlanError
from privacy.randomness import fresh_generator, seeded_generator
from privacy.stacked import Dense, OneGenerator, SeededDraws, StackedRows, train_stacked

WIDTHS = (5, 6, 3, 1)
COUNTS = (9, 4, 1, 7)


class Mlp(nn.Module):
    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.Tanh()]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return torch.as_tensor(self.net(inputs["features"]))


def binary(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(output.squeeze(-1), target, reduction="none")


def squared(output: Tensor, target: Tensor) -> Tensor:
    return 0.2 * (output.squeeze(-1) - target) ** 2


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.7, momentum=0.5, weight_decay=0.01)


def tables(counts: tuple[int, ...] = COUNTS) -> list[tuple[Tensor, Tensor]]:
    generator = seeded_generator("rows")
    return [
        (3 * torch.randn(n, WIDTHS[0], generator=generator), torch.rand(n, generator=generator).round()) for n in counts
    ]


def module() -> Mlp:
    torch.manual_seed(1)
    return Mlp()


def dense(one: Mlp, participants: int) -> list[Dense]:
    linear = [layer for layer in one.net if isinstance(layer, nn.Linear)]
    return [
        Dense(
            layer.weight.detach().repeat(participants, 1, 1),
            layer.bias.detach().repeat(participants, 1, 1),
            tanh=layer is not linear[-1],
        )
        for layer in linear
    ]


def plans(private: bool, rate: float, participants: int = len(COUNTS), steps: int = 4) -> list[PlainPlan]:
    public = [{"sampling_rate": rate, "declared_units": 5 + place, "steps": steps} for place in range(participants)]
    if private:
        noise = [{"noise_multiplier": 0.4 + 0.1 * place, "clip": 0.6} for place in range(participants)]
        return [DpSgdPlan(**a, **b) for a, b in zip(public, noise, strict=True)]  # type: ignore[arg-type]
    return [PlainPlan(**a) for a in public]  # type: ignore[arg-type]


def generators(participants: int = len(COUNTS)) -> list[torch.Generator]:
    return [seeded_generator("one", place) for place in range(participants)]


def each_alone(private: bool, rate: float, loss: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    found = []
    for (x, y), plan, generator in zip(tables(), plans(private, rate), generators(), strict=True):
        one = module()
        rows: tuple[Any, ...] = ({"features": x}, y, torch.arange(len(y)), len(y), loss, sgd, plan, generator)
        (train_private if private else train_plain)(one, *rows, single=True)
        found.append(torch.cat([parameter.detach().flatten() for parameter in one.parameters()]))
    return found


def together(private: bool, rate: float, loss: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    layers = dense(module(), len(COUNTS))
    rows = StackedRows.of(tables())
    source = EachGenerator(generators()) if private else SeededDraws(generators(), 4)
    train_stacked(layers, rows, loss, sgd, plans(private, rate), source)
    tensors = [tensor.flatten(1) for layer in layers for tensor in (layer.weight, layer.bias)]
    return list(torch.cat(tensors, dim=1))


def equal(private: bool = True, rate: float = 0.4, loss: Callable[[Tensor, Tensor], Tensor] = binary) -> bool:
    pairs = zip(each_alone(private, rate, loss), together(private, rate, loss), strict=True)
    return all(torch.allclose(a, b, atol=1e-5, rtol=1e-5) for a, b in pairs)


@pytest.mark.parametrize("loss", [binary, squared])
@pytest.mark.parametrize("rate", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("private", [True, False])
def test_each_participant_trains_as_it_would_alone(
    private: bool, rate: float, loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    assert equal(private, rate, loss)


@pytest.mark.parametrize("private", [True, False])
def test_a_step_of_several_blocks_is_that_of_one(private: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    blocks = stacked._blocks

    def noted(*arguments: Any) -> Any:
        made.append(len(found := blocks(*arguments)))
        return found

    monkeypatch.setattr(stacked, "MULTIPLE", 2)
    monkeypatch.setattr(stacked, "_USUAL", 30)
    monkeypatch.setattr(stacked, "_blocks", noted)
    assert equal(private, rate=0.7)
    assert max(made) > 1
    monkeypatch.setattr(stacked, "_blocks", lambda *arguments: blocks(*arguments)[:1])
    assert not equal(private, rate=0.7)


@pytest.mark.parametrize("widths", [WIDTHS, (30, 64, 32, 1)])
def test_a_participants_sum_is_the_same_to_the_bit_among_any_number(widths: tuple[int, ...]) -> None:
    # A later block has as many participants as drew so many rows: one row more of one must move nobody else's sum.
    generator, shape = seeded_generator("bits"), (7, stacked.MULTIPLE)
    layers, features = dense(Mlp(widths), 7), torch.randn(*shape, widths[0], generator=generator)
    target = torch.rand(*shape, generator=generator).round()
    present = torch.rand(*shape, 1, generator=generator) < 0.8
    (plan, *_) = plans(True, 0.4)

    def sums(who: list[int]) -> list[Tensor]:
        some = [Dense(layer.weight[who], layer.bias[who], layer.tanh) for layer in layers]
        gradients = [torch.zeros_like(tensor) for layer in some for tensor in (layer.weight, layer.bias)]
        block = stacked._Block(None, features[who], target[who].flatten(), present[who])
        with torch.no_grad():
            stacked._add(gradients, some, block, binary, plan, torch.full((len(who), 1, 1), 3.0))
        return gradients

    everybody = sums(list(range(7)))
    for who in ([4, 5], [0, 6], [1, 2, 3, 5, 6]):  # of one participant alone they are others
        assert all(torch.equal(one[who], other) for one, other in zip(everybody, sums(who), strict=True))


def test_no_block_of_a_crowd_has_one_participant_alone() -> None:
    rows = StackedRows.of(tables((70, 3, 40)))
    first, *rest = stacked._blocks(rows, rows.places().view(-1).nonzero().squeeze(1), 32)
    assert first.who is None
    assert [block.who.tolist() for block in rest if block.who is not None] == [[0, 2], [0, 1]]
    assert [int(block.present.sum()) for block in rest] == [32 + 8, 6]
    assert not rest[-1].features[1].any()


def _first_layer_only(deltas: list[Tensor], inputs: list[Tensor], clip: float) -> Any:
    one, _ = _clip(deltas[:1], inputs[:1], clip)
    return one + deltas[1:], inputs


def _weights_only(deltas: list[Tensor], inputs: list[Tensor], clip: float) -> Any:
    norms = torch.stack([d.square().sum(2) * v.square().sum(2) for d, v in zip(deltas, inputs, strict=True)]).sum(0)
    factors = (clip / norms.sqrt()).clamp(max=1).unsqueeze(2)
    return [d * factors for d in deltas], inputs


def _by_participant(deltas: list[Tensor], inputs: list[Tensor], clip: float) -> Any:
    """Clip the sum of the rows, not each row."""
    sums = [(torch.bmm(d.mT, v), d.sum(1)) for d, v in zip(deltas, inputs, strict=True)]
    norms = torch.stack([w.square().sum((1, 2)) + b.square().sum(1) for w, b in sums]).sum(0).sqrt()
    return [d * (clip / norms).clamp(max=1).view(-1, 1, 1) for d in deltas], inputs


_clip = stacked._clip


@pytest.mark.parametrize(
    "broken",
    [lambda d, v, _: (d, v), _first_layer_only, _weights_only, _by_participant, lambda d, v, c: _clip(d, v, 2 * c)],
)
def test_a_broken_clip_is_caught(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked, "_clip", broken)
    assert not equal()


@pytest.mark.parametrize("factor", [0.0, 2 / 3, 1.5])
def test_noise_that_is_not_scaled_is_caught(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = EachGenerator.noise
    monkeypatch.setattr(EachGenerator, "noise", lambda self, t, d: noise(self, t, factor * d))
    assert not equal()


def test_a_normaliser_of_counted_rows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainPlan, "expected_batch", property(lambda plan: 0.4 * (plan.declared_units - 1)))
    found = together(True, 0.4, binary)
    monkeypatch.undo()
    assert not torch.allclose(found[0], each_alone(True, 0.4, binary)[0], atol=1e-5)


def test_a_row_moves_its_participant_by_at_most_the_clip_and_nobody_else() -> None:
    """Same seeds with one row swapped for a huge one: the sums differ by at most 2 C, lr / normaliser of that here."""
    clip, normaliser = 0.6, 5.0

    def step(rows: list[tuple[Tensor, Tensor]], sigma: float = 0.5) -> Tensor:
        layers = dense(module(), len(COUNTS))
        public: dict[str, Any] = {"sampling_rate": 1.0, "declared_units": 5, "steps": 1, "clip": clip}
        law = [DpSgdPlan(**public, noise_multiplier=sigma)] * len(COUNTS)
        optimizer = lambda p: torch.optim.SGD(p, lr=1.0)  # noqa: E731
        train_stacked(layers, StackedRows.of(rows), binary, optimizer, law, EachGenerator(generators()))
        return torch.cat([t.flatten(1) for layer in layers for t in (layer.weight, layer.bias)], dim=1)

    before = step(tables())
    for value in (1e4, 1e30, float("nan"), float("inf")):
        changed = tables()
        changed[1][0][2] = value
        after = step(changed)
        assert torch.equal(after[[0, 2, 3]], before[[0, 2, 3]])
        assert float((after[1] - before[1]).norm()) <= 2 * clip / normaliser * (1 + 1e-5)
    gone = tables()
    gone[1][0][2] = float("nan")
    kept = tables()
    kept[1] = (kept[1][0][[0, 1, 3]], kept[1][1][[0, 1, 3]])
    # A gradient that is not finite adds nothing (with next to no noise: a row less also moves a seeded generator).
    assert torch.allclose(step(gone, 1e-9)[1], step(kept, 1e-9)[1], atol=1e-6)


def test_noise_of_one_generator_has_every_participants_deviation() -> None:
    """4 x 4000 coordinates, no rows at all: deviation sigma C / normaliser within 4 standard errors, 1 / sqrt(2 n)."""
    sizes, sigmas, clip = 4000, (0.5, 1.0, 2.0, 4.0), 0.3
    layers = [Dense(torch.zeros(4, 1, sizes), torch.zeros(4, 1, 1), tanh=False)]
    rows = StackedRows(torch.zeros(4, 0, sizes), torch.zeros(4, 0), torch.zeros(4, dtype=torch.int64))
    law = [
        DpSgdPlan(sampling_rate=0.5, declared_units=10, steps=1, noise_multiplier=sigma, clip=clip) for sigma in sigmas
    ]
    train_stacked(layers, rows, binary, lambda p: torch.optim.SGD(p, lr=1.0), law, OneGenerator(fresh_generator(TEST)))
    for place, sigma in enumerate(sigmas):
        ratio = float(layers[0].weight[place].std()) / (sigma * clip / 5.0)
        assert abs(ratio - 1) < 4 / (2 * sizes) ** 0.5
    rows_of_noise = layers[0].weight[:, 0]
    assert abs(float(torch.corrcoef(rows_of_noise)[0, 1])) < 4 / sizes**0.5


def test_draws_of_one_generator_are_poisson_and_leave_padding_out() -> None:
    """Sizes Binomial(50, .3): mean 15, variance 10.5, over 2000 participants and 100 for the shorter ones."""
    counts = torch.tensor([50, 10] * 1000)
    rows = StackedRows(torch.zeros(2000, 50, 1), torch.zeros(2000, 50), counts)
    drawn = OneGenerator(fresh_generator(TEST)).draw(rows, 0.3)
    assert bool((drawn % 50 < counts[drawn // 50]).all())
    assert bool((drawn[1:] > drawn[:-1]).all())
    sizes = torch.bincount(drawn // 50, minlength=2000).double().view(1000, 2)
    assert abs(float(sizes[:, 0].mean()) - 15) < 4 * (10.5 / 1000) ** 0.5
    # The variance of a sample variance is about 2 v^2 / n; a batch of fixed size has none.
    assert abs(float(sizes[:, 0].var()) - 10.5) < 4 * 10.5 * (2 / 1000) ** 0.5
    assert abs(float(sizes[:, 1].mean()) - 3) < 4 * (2.1 / 1000) ** 0.5


def test_plans_of_different_laws_are_refused() -> None:
    rows, layers = StackedRows.of(tables()), dense(module(), len(COUNTS))
    mixed = [*plans(True, 0.4, 3), *plans(True, 0.5, 1)]
    with pytest.raises(PlanError, match="one kind, sampling rate"):
        train_stacked(layers, rows, binary, sgd, mixed, EachGenerator(generators()))
    with pytest.raises(PlanError, match="one for each of 4"):
        train_stacked(layers, rows, binary, sgd, plans(True, 0.4, 3), EachGenerator(generators()))
