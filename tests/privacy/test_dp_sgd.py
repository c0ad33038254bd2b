"""The step of DP-SGD is what its accounting assumes: sums by unit, one joint clip, the noise, the normaliser."""

import math
import os
from typing import Any

import numpy as np
import pytest
import torch
from dp_step import SILENT, Linear, Model, by_hand, flat, moved, plan, rows, run, sgd, squared
from noise_contexts import TEST
from scipy.stats import binom, chi2
from torch import Tensor, nn

from privacy.dp_sgd import PlainPlan, train_plain
from privacy.errors import PlanError
from privacy.events import PoissonGaussian
from privacy.randomness import fresh_generator, seeded_generator

torch.set_num_threads(1)

UNITS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 0, 0, 2, 0, 5])
GROUPS = [[0, 5, 7, 8, 10], [1, 6], [2, 9], [3], [4], [11]]


@pytest.mark.parametrize("clip", [0.01, 1.0, 1e6])
def test_the_step_equals_the_hand_worked_sum_by_unit(clip: float) -> None:
    inputs, target = rows()
    wanted = by_hand(Model(), inputs, target, GROUPS, clip) / 10
    got = moved(Model(), inputs, target, UNITS, plan(clip=clip, noise_multiplier=SILENT / clip))
    # Units of several rows are clipped to a thousandth less than C (`privacy.bookkeeping`).
    assert float((got - wanted).norm()) <= 2e-3 * float(wanted.norm())


def test_clipping_rows_instead_of_units_would_be_seen() -> None:
    inputs, target = rows()
    clip = 1.0
    got = moved(Model(), inputs, target, UNITS, plan(clip=clip))
    broken = by_hand(Model(), inputs, target, [[row] for group in GROUPS for row in group], clip) / 10
    assert (got - broken).norm() > 0.05


def test_clipping_layers_instead_of_all_parameters_jointly_would_be_seen() -> None:
    # One unit, far above C: the whole update, the private head's part included, has norm C / normaliser.
    inputs, target = rows(1)
    got = moved(Model(), inputs, 100 * target.abs() + 100, torch.zeros(1, dtype=torch.int64), plan(clip=1.0))
    assert float(got.norm()) == pytest.approx(1.0 / 10, rel=2e-3)


def test_the_private_head_is_inside_the_joint_clip() -> None:
    inputs, target = rows(1)
    module = Model()
    before = module.encoder.weight.detach().clone(), module.head.weight.detach().clone()
    run(module, inputs, target + 100, torch.zeros(1, dtype=torch.int64), plan(clip=1.0, declared_units=1))
    after = module.encoder.weight.detach(), module.head.weight.detach()
    shifts = [float((new - old).norm()) for new, old in zip(after, before, strict=True)]
    assert min(shifts) > 0.01
    assert math.hypot(*shifts) <= 1.0 + 1e-5


@pytest.mark.parametrize("many", [1, 30])
def test_one_unit_more_moves_the_sum_by_at_most_the_clip(many: int) -> None:
    inputs, target = rows(12 + many)
    inputs["features"][12:] *= 50
    units = torch.cat([UNITS, torch.full((many,), 6)])
    less = moved(Model(), {"features": inputs["features"][:12]}, target[:12], UNITS, plan())
    more = moved(Model(), inputs, target, units, plan())
    assert float((more - less).norm()) * 10 <= 1.0 + 1e-4


def test_the_normaliser_is_public() -> None:
    inputs, target = rows()
    ten = moved(Model(), inputs, target, UNITS, plan(declared_units=10))
    twenty = moved(Model(), inputs, target, UNITS, plan(declared_units=20))
    assert torch.allclose(ten, 2 * twenty, rtol=1e-5, atol=1e-7)
    assert plan(sampling_rate=0.15, declared_units=7).expected_batch == pytest.approx(1.05)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_unit_with_a_gradient_that_is_not_finite_adds_nothing(bad: float) -> None:
    inputs, target = rows()
    inputs["features"][11] = bad
    got = moved(Linear(3), inputs, target, UNITS, plan())
    wanted = moved(Linear(3), {"features": inputs["features"][:11]}, target[:11], UNITS[:11], plan())
    assert torch.allclose(got, wanted, atol=1e-7)


def law_of_noise(claimed: float, real: float, empty: bool = False) -> bool:
    """Whether 20 steps of 2000 coordinates look like noise of `claimed` x clip, when drawn with `real`."""
    clip, declared, steps = 0.7, 50, 20
    inputs, target = rows(0 if empty else 5, 2000)
    module = Linear(2000)
    a_plan = plan(noise_multiplier=real, clip=clip, sampling_rate=0.2, declared_units=declared)
    silent = {"features": inputs["features"] * 0}  # no signal: what moves is noise
    updates = [moved(module, silent, target, torch.arange(len(target)), a_plan) for _ in range(steps)]
    values = torch.stack(updates).double() * 0.2 * declared / (claimed * clip)
    low, high = (float(chi2.ppf(tail, values.numel())) for tail in (1e-6, 1 - 1e-6))
    return bool(low < float((values**2).sum()) < high)


@pytest.mark.parametrize("empty", [False, True])
def test_the_noise_has_the_claimed_deviation_and_no_other(empty: bool) -> None:
    assert law_of_noise(1.5, 1.5, empty)
    assert not law_of_noise(1.5, 1.5 * 2 / 3, empty)
    assert not law_of_noise(1.5, 1.5 * 3 / 2, empty)


def test_noise_of_attempts_is_uncorrelated() -> None:
    def noise() -> np.ndarray[Any, Any]:
        torch.manual_seed(0)  # whoever fixes the global seed learns nothing
        inputs, target = rows(5, 2000)
        units = torch.arange(5)
        return np.asarray(
            moved(Linear(2000), {"features": inputs["features"] * 0}, target, units, plan(noise_multiplier=1.0))
        )

    draws = np.stack([noise() for _ in range(6)])
    assert np.abs(np.corrcoef(draws)[~np.eye(6, dtype=bool)]).max() < 6 / math.sqrt(2000)


def test_training_with_a_generator_inherited_over_a_fork_is_refused() -> None:
    inputs, target = rows()
    generator = fresh_generator(TEST)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(Model(), inputs, target, UNITS, plan(), generator=generator)
        except PlanError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_global_generator_is_refused() -> None:
    inputs, target = rows()
    for generator in (torch.default_generator, None):
        with pytest.raises(PlanError, match="fresh_generator"):
            run(Model(), inputs, target, UNITS, plan(), generator=generator)


class Counting(torch.optim.SGD):
    steps = 0

    def step(self, *arguments: Any, **named: Any) -> Any:
        Counting.steps += 1
        return super().step(*arguments, **named)


@pytest.mark.parametrize("n_rows", [0, 12])
def test_an_instrumented_optimizer_counts_the_plan_s_steps(n_rows: int) -> None:
    inputs, target = rows(n_rows)
    Counting.steps = 0
    a_plan = plan(noise_multiplier=1.0, sampling_rate=0.05, steps=37)
    units = UNITS[:n_rows]
    report = run(Model(), inputs, target, units, a_plan, make_optimizer=lambda p: Counting(p, lr=0.1))
    assert Counting.steps == report.steps_taken == len(report.draws) == 37
    assert 0 in report.draws  # empty draws happened and were steps
    event = a_plan.event(unit="record")
    assert event == PoissonGaussian(
        noise_multiplier=1.0, sampling_rate=0.05, steps=37, partition="train", unit="record"
    )


@pytest.mark.parametrize(
    "settings", [{}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"maximize": True}, {"nesterov": True, "momentum": 0.5}]
)
def test_a_step_is_the_one_of_the_given_optimizer(settings: dict[str, Any]) -> None:
    class Kept(torch.optim.SGD):
        """The same optimizer, of a type that gets no shortcut."""

    def trained(kind: type[torch.optim.SGD]) -> Tensor:
        torch.manual_seed(3)
        module = Model()
        inputs, target = rows()
        make = lambda parameters: kind(parameters, lr=0.3, **settings)  # noqa: E731
        run(module, inputs, target, UNITS, plan(steps=5), make_optimizer=make, generator=seeded_generator("steps", 1))
        return flat(module)

    assert torch.equal(trained(torch.optim.SGD), trained(Kept))


def test_draws_of_the_train_path_are_binomial() -> None:
    inputs, target = rows()
    report = run(
        Linear(3), inputs, target, torch.arange(12), plan(sampling_rate=0.25, steps=1500), generator=seeded_generator(4)
    )
    sizes = np.bincount(report.draws, minlength=13)[:13]
    expected = 1500 * binom.pmf(np.arange(13), 12, 0.25)
    keep = expected >= 5
    assert ((sizes[keep] - expected[keep]) ** 2 / expected[keep]).sum() < chi2.ppf(0.9999, keep.sum())


def traces(module: nn.Module) -> list[object]:
    """Everything that training could have left on the module."""
    found: list[object] = [sorted(module.state_dict())]
    for child in module.modules():
        found += [sorted(child.__dict__), len(child._forward_hooks), len(child._backward_hooks), child.training]
    return found + [sorted(parameter.__dict__) for parameter in module.parameters()]


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_on_the_module(fails: bool) -> None:
    inputs, target = rows()
    module = Model().eval()
    before = traces(module)

    class Failing(torch.optim.SGD):
        def step(self, *arguments: Any, **named: Any) -> Any:
            raise RuntimeError("disk full")

    if fails:
        with pytest.raises(RuntimeError, match="disk full"):
            run(module, inputs, target, UNITS, plan(), make_optimizer=lambda p: Failing(p, lr=0.1))
    else:
        run(module, inputs, target, UNITS, plan(steps=3))
    assert traces(module) == before
    run(module, inputs, target, UNITS, plan())  # and it can be trained again
    assert all(parameter.grad is None for parameter in module.parameters())


class Wrapped(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 4)
        self.layer = layer
        self.head = nn.Linear(4, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return torch.as_tensor(self.head(self.layer(self.encoder(inputs["features"]))))


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Remembers(nn.Module):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + x.detach().sum()
        return x


class CentredInTraining(nn.Module):
    """Mixes its rows in training mode only, and keeps no state that would tell."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0) if self.training else x


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.BatchNorm1d(4), "BatchNorm1d"),
        (nn.BatchNorm1d(4, affine=False), "BatchNorm1d"),
        (nn.BatchNorm1d(4, affine=False, track_running_stats=False), "BatchNorm1d"),
        (Centred(), "influence each other"),
        (CentredInTraining(), "influence each other"),
        (nn.Dropout(0.1), "Dropout"),
        (Remembers(), "buffer layer.seen"),
        (Unused(), "spare.weight"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_modules_that_break_the_bound_are_refused_before_a_step(layer: nn.Module, named: str) -> None:
    inputs, target = rows()
    module = Wrapped(layer)
    before = flat(module).clone()
    with pytest.raises(PlanError, match=named):
        run(module, inputs, target, UNITS, plan(noise_multiplier=1.0))
    assert torch.equal(before, flat(module))


def test_a_head_of_zeros_does_not_hide_an_encoder_that_mixes_rows() -> None:
    module = Model()
    module.encoder = nn.Sequential(nn.Linear(3, 4), CentredInTraining())  # type: ignore[assignment]
    nn.init.zeros_(module.head.weight)
    inputs, target = rows()
    with pytest.raises(PlanError, match="influence each other"):
        run(module, inputs, target, UNITS, plan())


def test_a_parameter_of_the_root_module_is_clipped_row_by_row() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return (inputs["features"] @ self.weight)[:, None]

    inputs, target = rows()
    wanted = by_hand(Bare(), inputs, target, GROUPS, 0.5) / 10
    assert torch.allclose(moved(Bare(), inputs, target, UNITS, plan(clip=0.5)), wanted, rtol=2e-3, atol=1e-4)


def test_own_layers_embeddings_and_frozen_parameters_work() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.codes = nn.Embedding(5, 4)
            self.scale = Scale()
            self.frozen = nn.Linear(3, 4).requires_grad_(False)
            self.head = nn.Linear(4, 1)

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return torch.as_tensor(self.head(self.scale(self.codes(inputs["code"]) + self.frozen(inputs["features"]))))

    inputs, target = rows()
    module = Mixed()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    run(module, {**inputs, "code": torch.arange(12) % 5}, target, UNITS, plan(noise_multiplier=1.0))
    changed = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"codes.weight", "scale.scale", "head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", 0.0),
        ("noise_multiplier", math.inf),
        ("clip", 0.0),
        ("clip", math.nan),
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.01),
        ("declared_units", 0),
        ("steps", 0),
        ("steps", 1.5),
    ],
)
def test_plans_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(PlanError, match=name):
        plan(**{name: value})


def test_bad_tables_and_losses_are_refused() -> None:
    inputs, target = rows()
    with pytest.raises(PlanError, match="target"):
        run(Model(), inputs, target[:5], UNITS, plan())
    with pytest.raises(PlanError, match="unit_index"):
        run(Model(), inputs, target, UNITS, plan(), n_units=3)
    with pytest.raises(PlanError, match="unit_index"):
        run(Model(), inputs, target, UNITS.float(), plan(), n_units=6)
    with pytest.raises(PlanError, match="one value a row"):
        run(Model(), inputs, target, UNITS, plan(), loss=lambda output, wanted: squared(output, wanted).mean())
    with pytest.raises(PlanError, match="influence each other"):
        run(Model(), inputs, target, UNITS, plan(), loss=lambda o, t: squared(o, t) * squared(o, t).mean())
    with pytest.raises(PlanError, match="make_optimizer"):
        run(Model(), inputs, target, UNITS, plan(), make_optimizer=lambda p: torch.optim.SGD(list(p)[:1], lr=1.0))


def test_the_plain_twin_is_the_mean_gradient_over_the_public_normaliser() -> None:
    inputs, target = rows()
    module, wanted = Model(), Model()
    a_plan = PlainPlan(sampling_rate=1.0, declared_units=10, steps=1)
    train_plain(module, inputs, target, UNITS, 6, squared, sgd(), a_plan, seeded_generator(1))
    expected = flat(wanted) - by_hand(wanted, inputs, target, [[row] for row in range(12)], math.inf) / 10
    assert torch.allclose(flat(module), expected, atol=1e-6)
    empty = {"features": inputs["features"][:0]}
    report = train_plain(module, empty, target[:0], UNITS[:0], 0, squared, sgd(), a_plan, seeded_generator(1))
    assert report.draws == (0,)
    assert torch.allclose(flat(module), expected, atol=1e-6)


def test_private_and_plain_training_draw_the_same_units_from_the_same_law() -> None:
    inputs, target = rows()
    a_plan = plan(clip=1e6, noise_multiplier=1e-18, sampling_rate=0.5)
    private, plain = Model(), Model()
    one = run(private, inputs, target, UNITS, a_plan, generator=seeded_generator(9))
    two = train_plain(plain, inputs, target, UNITS, 6, squared, sgd(), a_plan, seeded_generator(9))
    assert one.draws == two.draws
    assert torch.allclose(flat(private), flat(plain), atol=1e-5)
