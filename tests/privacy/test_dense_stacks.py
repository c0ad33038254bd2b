"""Dense stacks without autograd: the sums are Opacus' and autograd's, whatever the loss and whichever layers train."""

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from clipped_sums import clipped_sum
from dp_step import flat
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.nn import functional

from privacy._engines import RowEngine
from privacy._losses import rule_of
from privacy._rows import Draw, Loss, Rows
from privacy.bookkeeping import BookKeeping
from privacy.randomness import seeded_generator

torch.set_num_threads(1)
ROWS = 7


class Named(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(*layers)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=seeded_generator("dense", parameter.numel()))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        output: Tensor = self.net(inputs["x"])
        return output


def logistic(output: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(output.squeeze(-1), y.to(output.dtype), reduction="none")


def scaled(output: Tensor, y: Tensor) -> Tensor:
    return (output.squeeze(-1) - (y - 0.3) / 2.5) ** 2


def half(output: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (output[:, 0] - y) ** 2


def cubed(output: Tensor, y: Tensor) -> Tensor:
    return (output[:, 0] - y).abs() ** 3


def weighted(output: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(
        output.squeeze(1), y, reduction="none", pos_weight=torch.tensor(3.0)
    )


LOSSES: dict[str, tuple[Loss, bool]] = {
    "logistic": (logistic, True),
    "scaled": (scaled, True),
    "half": (half, True),
    "cubed": (cubed, False),
    "weighted": (weighted, False),
}
STACKS: dict[str, Callable[[], Named]] = {
    "one layer": lambda: Named(nn.Linear(5, 1)),
    "no bias": lambda: Named(nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 1, bias=False)),
    "no activation": lambda: Named(nn.Linear(5, 4), nn.Linear(4, 3), nn.Identity(), nn.Sigmoid(), nn.Linear(3, 1)),
    "three layers": lambda: Named(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 1)),
    "an activation last": lambda: Named(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1), nn.Tanh()),
}


def table(kind: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = seeded_generator("dense rows")
    return (
        torch.randn(ROWS, 5, generator=generator, dtype=kind),
        (torch.rand(ROWS, generator=generator) < 0.5).to(kind),
    )


def draw(x: Tensor, y: Tensor) -> Draw:
    return Draw({"x": x}, y, torch.arange(len(y)), len(y), single=True)


def engine(module: Named) -> BookKeeping:
    found = BookKeeping(module, [p for p in module.parameters() if p.requires_grad])
    assert found._dense({"x": table()[0].to(found.total.dtype)}) is not None
    return found


def by_hand(module: Named, x: Tensor, y: Tensor, loss: Loss, clip: float) -> tuple[Tensor, Tensor]:
    """Return the clipped sum and the norms, one row after the other."""
    trained = [p for p in module.parameters() if p.requires_grad]
    found = []
    for row in range(len(y)):
        one = loss(module({"x": x[row : row + 1]}), y[row : row + 1]).sum()
        found.append(torch.cat([part.flatten() for part in torch.autograd.grad(one, trained)]))
    gradients = torch.stack(found)
    norms = gradients.norm(dim=1)
    return gradients.mT @ (clip / (norms + 1e-6)).clamp(max=1), norms


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("stack", STACKS)
def test_sums_and_norms_are_autograds_row_by_row(stack: str, loss: str, kind: torch.dtype) -> None:
    module, (x, y) = STACKS[stack]().to(kind), table(kind)
    for clip in (0.2, 1e6):
        mine, norms = clipped_sum(engine(module), draw(x, y), clip, LOSSES[loss][0])
        truth, wanted = by_hand(module, x, y, LOSSES[loss][0], clip)
        room = 1e-5 if kind == torch.float32 else 1e-6
        assert torch.allclose(norms, wanted, rtol=room)
        assert float((mine - truth).norm()) <= room * float(truth.norm())


def test_sums_are_those_of_opacus() -> None:
    module, (x, y) = STACKS["three layers"](), table()
    mine, _ = clipped_sum(engine(module), draw(x, y), 0.3, logistic)
    hooked = GradSampleModule(module.net, loss_reduction="sum")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        logistic(hooked(x), y).sum().backward()  # type: ignore[no-untyped-call]
    per_row = torch.cat([p.grad_sample.flatten(1) for p in module.parameters()], dim=1)
    assert torch.allclose(mine, per_row.mT @ (0.3 / (per_row.norm(dim=1) + 1e-6)).clamp(max=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_known_loss_has_autograds_derivative_and_others_have_none(name: str) -> None:
    loss, known = LOSSES[name]
    rule = rule_of(loss)
    assert (rule is not None) == known
    if rule is None:
        return
    y = table()[1]
    z = torch.randn(1, ROWS, generator=seeded_generator("outputs")) * 9
    last = z.t().clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(last, y).sum(), last)
    rule(z, y)
    assert torch.allclose(z, wanted.t(), rtol=1e-6, atol=1e-7)


def rows_mixed(output: Tensor, y: Tensor) -> Tensor:
    return (output.squeeze(-1) - (y - y.mean()) / 2.0) ** 2


def outputs_twice(output: Tensor, y: Tensor) -> Tensor:
    return (output.squeeze(-1) - output.squeeze(-1) * y) ** 2


def mean_of_rows(output: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(output.squeeze(-1), y, reduction="mean")


def by_value(output: Tensor, y: Tensor) -> Tensor:
    return output.squeeze(-1) ** 2 if bool((y > 0).any()) else output.squeeze(-1)


@pytest.mark.parametrize("loss", [rows_mixed, outputs_twice, mean_of_rows, by_value, lambda output, y: output * 2])
def test_a_loss_that_resembles_a_known_one_is_not_taken_for_it(loss: Loss) -> None:
    assert rule_of(loss) is None


@pytest.mark.parametrize("loss", [logistic, cubed])
def test_frozen_layers_below_the_trained_ones_add_nothing(loss: Loss) -> None:
    module, (x, y) = STACKS["three layers"](), table()
    module.net[0].requires_grad_(requires_grad=False)
    mine, norms = clipped_sum(engine(module), draw(x, y), 0.3, loss)
    truth, wanted = by_hand(module, x, y, loss, 0.3)
    assert torch.allclose(norms, wanted, rtol=1e-5)
    assert torch.allclose(mine, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("frozen", [2, 4])
def test_a_frozen_layer_above_a_trained_one_goes_through_autograd(frozen: int) -> None:
    module, (x, y) = STACKS["three layers"](), table()
    module.net[frozen].requires_grad_(requires_grad=False)
    sums = BookKeeping(module, [p for p in module.parameters() if p.requires_grad])
    assert sums._dense({"x": x}) is None
    truth, _ = by_hand(module, x, y, logistic, 0.3)
    assert torch.allclose(clipped_sum(sums, draw(x, y), 0.3, logistic)[0], truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("row", [0, 3])  # the first row is what padding repeats
def test_a_row_that_is_not_finite_adds_zero_and_so_does_padding_made_of_it(row: int, bad: float) -> None:
    module, (x, y) = STACKS["three layers"](), table()
    x[row, 2] = bad
    before = x.clone()
    mine, norms = clipped_sum(engine(module), draw(x, y), 0.3, half)
    keep = [place for place in range(ROWS) if place != row]
    truth, _ = by_hand(module, x[keep], y[keep], half, 0.3)
    huge = bad == 1e30  # may have a norm, and then adds no more than the clip
    assert float((mine - truth).norm()) <= (0.3 if huge else 1e-6) * (1 + 1e-5)
    assert huge or float(norms[row]) == 0
    assert torch.equal(x.nan_to_num(7), before.nan_to_num(7))  # the caller's own rows


def test_pieces_add_up_and_a_sum_that_was_taken_is_forgotten() -> None:
    module, (x, y) = STACKS["three layers"](), table()
    rows = Rows({"x": x}, y, torch.arange(ROWS), ROWS, single=True)
    sums = engine(module)
    truth, _ = by_hand(module, x, y, logistic, 0.3)
    with sums.attached():
        for _ in range(2):
            for piece in rows.draws(torch.arange(ROWS), 3):
                sums.add(piece, logistic, 0.3)
            assert torch.allclose(sums.take(), truth, rtol=1e-5, atol=1e-6)
        assert not sums.take().any()


def test_parameters_that_an_optimizer_replaced_are_those_that_are_passed() -> None:
    module, (x, y) = STACKS["three layers"](), table()
    sums = engine(module)
    clipped_sum(sums, draw(x, y), 0.3, logistic)
    for parameter in module.parameters():
        parameter.data = parameter.data * 2
    truth, _ = by_hand(module, x, y, logistic, 0.3)
    assert torch.allclose(clipped_sum(sums, draw(x, y), 0.3, logistic)[0], truth, rtol=1e-5, atol=1e-6)
    assert len(flat(module)) == len(truth)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_row_gets_the_same_bits_in_any_company(kind: torch.dtype) -> None:
    module, generator = STACKS["three layers"]().to(kind), seeded_generator("company")
    x, y = torch.randn(60, 5, generator=generator).to(kind), torch.ones(60, dtype=kind)
    rows = Rows({"x": x}, y, torch.arange(60), 60, single=True, expected=40.0)
    sums = engine(module)
    alone = torch.tensor([37])
    with sums.attached():
        norms = []
        for units in (alone, torch.arange(37, 60), torch.arange(60)):
            (piece,) = rows.draws(units, 100)
            norms.append(sums.add(piece, half, 0.3)[int((units == 37).nonzero())])
    assert norms[0] == norms[1] == norms[2]


TARGETS: dict[str, Tensor] = {
    "bool": torch.arange(ROWS) % 2 == 0,
    "int8": torch.arange(-3, 4).to(torch.int8) * 40,
    "uint8": torch.arange(ROWS).to(torch.uint8) * 40,
    "float16": torch.arange(ROWS).to(torch.float16) * 1000,
    "int64": torch.arange(ROWS) + 2**24 - 2,
}
OF_ANY_TARGET: dict[str, Loss] = {
    "logistic": logistic,
    "times 100": lambda o, t: (o.squeeze(-1) - (t.to(o.dtype) * 100)) ** 2,
    "times 200": lambda o, t: (o.squeeze(-1) - (t.to(o.dtype) * 200)) ** 2,
    "less 1": lambda o, t: (o.squeeze(-1) - (t.to(o.dtype) - 1)) ** 2,
    "times 100 as it is": lambda o, t: (o.squeeze(-1) - t * 100) ** 2,
    "a third": lambda o, t: (o.squeeze(-1) - (t - 16777216.0) / 3) ** 2,
}


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", OF_ANY_TARGET)
@pytest.mark.parametrize("target", TARGETS)
def test_targets_of_any_type_have_the_gradients_of_rows_by_themselves(
    target: str, loss: str, kind: torch.dtype
) -> None:
    if (target, loss) == ("bool", "a third"):  # torch itself refuses to subtract from true and false
        with pytest.raises(RuntimeError, match="bool tensor"):
            OF_ANY_TARGET[loss](torch.zeros(ROWS, 1), TARGETS[target])
        return
    module, x = STACKS["three layers"]().to(kind), table(kind)[0]
    assert rule_of(OF_ANY_TARGET[loss]) is not None
    each = RowEngine(module, list(module.parameters()))
    piece = draw(x, TARGETS[target])
    (mine, norms), (truth, wanted) = (
        clipped_sum(one, piece, 0.3, OF_ANY_TARGET[loss]) for one in (engine(module), each)
    )
    assert torch.allclose(norms, wanted, rtol=1e-5)
    assert torch.allclose(mine, truth, rtol=1e-4, atol=1e-6)


def test_a_product_does_not_hide_behind_a_square_that_underflows() -> None:
    # The output's gradient is 1e-23: its square is 0 in float32, and 1e18 times it is ten times the clip.
    module, x = Named(nn.Linear(1, 1)), torch.tensor([[1e18]])
    with torch.no_grad():
        module.net[0].weight.zero_()
        module.net[0].bias.fill_(1e-23)
    sums = BookKeeping(module, list(module.parameters()))
    assert sums._dense({"x": x}) is not None
    (own,) = torch.autograd.grad(half(module({"x": x}), torch.zeros(1)).sum(), [module.net[0].weight])
    assert float(own) == pytest.approx(1e-5)
    moved, _ = clipped_sum(sums, draw(x, torch.zeros(1)), 1e-6, half)
    assert 0 < float(moved.double().norm()) <= 1e-6


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("stack", ["one layer", "three layers"])
def test_a_unit_moves_the_sum_by_the_clip_at_most_to_the_last_bit(stack: str, kind: torch.dtype) -> None:
    # Norms so large that 1e-6 beside them is less than rounding: what is left is that factors are a little too short.
    module, generator, rows = STACKS[stack]().to(kind), seeded_generator("shorter"), 200
    x = 20 * torch.randn(rows, 5, generator=generator).to(kind)
    y = (1e4 if kind == torch.float32 else 1e14) * torch.randn(rows, generator=generator).to(kind)
    sums, clip = engine(module), 0.25
    moved = []
    for row in range(rows):
        one = Draw({"x": x[row : row + 1]}, y[row : row + 1], torch.arange(1), 1, single=True, together=48)
        total, norms = clipped_sum(sums, one, clip, half)
        assert float(norms) > 100 * clip
        moved.append(float(total.double().norm()) / clip)
    assert max(moved) <= 1
    assert min(moved) > 1 - 1e-6
