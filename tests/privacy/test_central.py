"""DP-FedAvg with a trusted coordinator: clip, denominator, noise and draw by their laws, and mistakes caught."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from noise_contexts import TEST
from torch import Tensor

from privacy import central
from privacy.accounting import epsilon
from privacy.central import CentralPlan, clipped, draw, noisy_mean
from privacy.errors import PlanError
from privacy.events import GaussianRelease, PoissonGaussian
from privacy.randomness import fresh_generator, seeded_generator

PLAN = CentralPlan(noise_multiplier=1.5, clip=0.5, sampling_rate=0.2, units=50)
QUIET = CentralPlan(noise_multiplier=0.0, clip=0.5, sampling_rate=0.2, units=50)
SIZE = 4000


def test_a_change_is_clipped_by_hand() -> None:
    """|(3, 4)| = 5: times .5 / 5. |(.3, .4)| = .5 stays. What is not finite is 0, and stays out of the others."""
    changes = torch.tensor([[3.0, 4.0], [0.3, 0.4], [math.nan, 1.0], [math.inf, 0.0], [0.0, 0.0]])
    wanted = torch.tensor([[0.3, 0.4], [0.3, 0.4], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(clipped(changes, 0.5), wanted, atol=1e-7)


def bounded(mean: Callable[..., Tensor]) -> bool:
    """One participant more or less moves the mean by C / (q units) = .05 at most, whatever it holds."""
    generator = seeded_generator("changes")
    others = list(torch.randn(12, 30, generator=generator) * torch.logspace(-3, 3, 12).unsqueeze(1))
    without = mean(others, 30, QUIET, generator)
    ends = (torch.full((30,), 1e30), torch.full((30,), math.nan), -others[-1], 0.01 * others[0])
    return all(float((mean([*others, one], 30, QUIET, generator) - without).norm()) <= 0.05 + 1e-9 for one in ends)


def denominated(mean: Callable[..., Tensor]) -> bool:
    """Three changes of (.3, .4, 0 ...) over q units = 10: (.09, .12), however many answered."""
    one = torch.zeros(5)
    one[0], one[1] = 0.3, 0.4
    found = mean([one] * 3, 5, QUIET, fresh_generator(TEST))
    return bool(torch.allclose(found[:2], torch.tensor([0.09, 0.12], dtype=torch.float64), atol=1e-7))


def noised(mean: Callable[..., Tensor], changes: int) -> bool:
    """Deviation z C / (q units) = .075 within 4 standard errors, 1 / sqrt(2 n): 4.5 % of 4000 coordinates."""
    for generator in (fresh_generator(TEST), seeded_generator("noise")):
        found = mean([torch.zeros(SIZE)] * changes, SIZE, PLAN, generator)
        if abs(float(found.std()) / 0.075 - 1) > 4 / math.sqrt(2 * SIZE) + 1e-3 or abs(float(found.mean())) > 0.005:
            return False
    return True


def poisson(drawn: Callable[..., Tensor]) -> bool:
    """Sizes of 600 draws of 50 at q = .2: mean 10, variance 8; and no place is favoured."""
    draws = [drawn(50, PLAN, fresh_generator(TEST)) for _ in range(600)]
    sizes = torch.tensor([float(len(one)) for one in draws])
    hits = torch.bincount(torch.cat(draws), minlength=50).double() / 600
    return bool(
        abs(sizes.mean() - 10) < 4 * math.sqrt(8 / 600)
        and abs(sizes.var() - 8) < 4 * 8 * math.sqrt(2 / 600)
        and (hits - 0.2).abs().max() < 5 * math.sqrt(0.16 / 600)
    )


def test_the_mechanism_keeps_its_laws() -> None:
    assert bounded(noisy_mean)
    assert denominated(noisy_mean)
    assert noised(noisy_mean, 0)  # an empty draw too
    assert noised(noisy_mean, 7)
    assert poisson(draw)


def _mutant(**changes: Any) -> Callable[..., Tensor]:
    """Return `noisy_mean` under another plan than the one it is told."""

    def mean(rows: list[Tensor], coordinates: int, plan: CentralPlan, generator: torch.Generator) -> Tensor:
        told = {name: getattr(plan, name) for name in ("noise_multiplier", "clip", "sampling_rate", "units")}
        other = CentralPlan(**{name: changes.get(name, lambda p, v=v: v)(plan) for name, v in told.items()})
        return noisy_mean(rows, coordinates, other, generator)

    return mean


def test_a_missing_clip_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(central, "clipped", lambda changes, clip: changes.double().nan_to_num(0))
    assert not bounded(noisy_mean)


def test_a_clip_of_every_coordinate_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(central, "clipped", lambda changes, clip: changes.double().clamp(-clip, clip).nan_to_num(0))
    assert not bounded(noisy_mean)


def test_a_denominator_of_those_who_answered_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_count(rows: list[Tensor], coordinates: int, plan: CentralPlan, generator: torch.Generator) -> Tensor:
        return noisy_mean(rows, coordinates, plan, generator) * plan.denominator / max(1, len(rows))

    assert not denominated(by_count)
    monkeypatch.setattr(CentralPlan, "denominator", property(lambda plan: plan.sampling_rate * 2))
    assert not denominated(noisy_mean)
    assert not bounded(noisy_mean)


@pytest.mark.parametrize("factor", [0.0, 2 / 3, 1.5])
def test_another_noise_is_caught(factor: float) -> None:
    assert not noised(_mutant(noise_multiplier=lambda plan: factor * plan.noise_multiplier), 3)


def test_noise_that_forgets_the_clip_or_is_added_by_each_is_caught() -> None:
    assert not noised(_mutant(clip=lambda plan: 1.0), 3)

    def each(rows: list[Tensor], coordinates: int, plan: CentralPlan, generator: torch.Generator) -> Tensor:
        return torch.stack([noisy_mean([row], coordinates, plan, generator) for row in rows]).sum(0)

    assert not noised(each, 3)
    assert not noised(lambda rows, *rest: noisy_mean(rows, *rest) if rows else torch.zeros(SIZE), 0)


def test_a_draw_of_fixed_size_or_of_another_rate_is_caught() -> None:
    assert not poisson(lambda n, plan, generator: torch.randperm(n)[: round(plan.sampling_rate * n)])
    assert not poisson(lambda n, plan, generator: draw(n - 5, plan, generator))


def test_what_it_costs_to_whom() -> None:
    """60 rounds at z = 1.27347, q = .1: PLD. Known: 60 Gaussians are one of z / sqrt(60) = .1644."""
    plan = CentralPlan(noise_multiplier=1.27347, clip=0.5, sampling_rate=0.1, units=1000)
    event = plan.event(60, "home")
    assert event == PoissonGaussian(
        noise_multiplier=1.27347, sampling_rate=0.1, steps=60, partition="train", unit="home"
    )
    assert 2.9 < epsilon([event], 1e-4) <= 3.0
    assert plan.event_when_known(60, "home") == GaussianRelease(
        noise_multiplier=1.27347, count=60, partition="train", unit="home"
    )
    one = GaussianRelease(noise_multiplier=1.27347 / math.sqrt(60), partition="train", unit="home")
    known = epsilon([plan.event_when_known(60, "home")], 1e-4, grid=1e-2)
    assert known == pytest.approx(epsilon([one], 1e-4, grid=1e-2), rel=1e-6)
    assert 40 < known < 41


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip": 0.0}, "clip"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"units": 0}, "units"),
        ({"sampling_rate": 1.5}, "rate"),
    ],
)
def test_a_plan_that_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    good = {"noise_multiplier": 1.0, "clip": 1.0, "sampling_rate": 0.5, "units": 10}
    with pytest.raises(PlanError, match=message):
        CentralPlan(**{**good, **changes})
    with pytest.raises(PlanError, match="generator"):
        noisy_mean([], 3, PLAN, torch.default_generator)
