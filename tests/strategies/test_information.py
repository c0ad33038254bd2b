"""Information weights by hand, and that an understated sigma gains nothing."""

from __future__ import annotations

import json
import math

import pytest
import torch

from consortia.coordinator.aggregation import aggregate
from consortia.coordinator.checkpoint import Checkpoint
from consortia.terms.scenario import Scenario, load_scenario, scenario_from_json
from consortia.terms.scopes import initial_groups
from strategies.information import LIMIT, flat_change, heterogeneity, information_weights, noise_variance

NOTHING = torch.zeros(0, dtype=torch.float64)


def test_the_variance_of_the_noise_by_hand() -> None:
    keys = {"noise_multiplier": 2.0, "clip": 1.0, "learning_rate": 0.5, "sampling_rate": 0.1, "units": 100}
    # One step: (.5 x 2 x 1 / 10)^2 = .01; three steps add.
    assert noise_variance(steps=1, **keys) == pytest.approx(0.01)  # type: ignore[arg-type]
    assert noise_variance(steps=3, **keys) == pytest.approx(0.03)  # type: ignore[arg-type]
    # Momentum .5, two steps: the first noise counts 1.5 times, the second once: .01 (2.25 + 1).
    assert noise_variance(steps=2, momentum=0.5, **keys) == pytest.approx(0.0325)  # type: ignore[arg-type]


def test_the_variance_is_that_of_real_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(20_000, dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], lr=0.5, momentum=0.9)
    for _ in range(4):
        parameter.grad = torch.randn(20_000, generator=generator, dtype=torch.float64) * 2 / 10
        optimizer.step()
    wanted = noise_variance(
        noise_multiplier=2, clip=1, learning_rate=0.5, steps=4, sampling_rate=0.1, units=100, momentum=0.9
    )
    assert float(parameter.detach().var()) == pytest.approx(wanted, rel=0.05)


def test_heterogeneity_by_hand() -> None:
    # x = 0 and 2, v = 1 and 1: mean 1, Q = 2, tau^2 = (2 - 1) / (2 - 2/2) = 1.
    changes = [torch.tensor([0.0]), torch.tensor([2.0])]
    assert heterogeneity(changes, [1.0, 1.0]) == pytest.approx(1.0)
    # Differences that the noise explains: Q = .5 < k - 1.
    assert heterogeneity([torch.tensor([0.0]), torch.tensor([1.0])], [1.0, 1.0]) == 0.0
    # x = 0, 4 with v = 1, 3: w = 1, 1/3, mean 1, Q = 1 + 3 = 4, scale = 4/3 - (10/9)/(4/3) = .5; tau^2 = 3/.5 = 6.
    assert heterogeneity([torch.tensor([0.0]), torch.tensor([4.0])], [1.0, 3.0]) == pytest.approx(6.0)


def test_weights_by_hand() -> None:
    # No spread: 1/1 against 1/4 is .8 and .2 of equal sizes; .8 is beyond 1.5 x .5, .2 below .5 / 1.5: .75 and 1/3.
    assert information_weights([NOTHING] * 2, [1.0, 4.0], [10, 10], 1.0) == pytest.approx([9 / 13, 4 / 13])
    # tau^2 = 6 (above): 1/7 and 1/9.
    changes = [torch.tensor([0.0]), torch.tensor([4.0])]
    assert information_weights(changes, [1.0, 3.0], [10, 10], 1.0) == pytest.approx([9 / 16, 7 / 16])
    # Without any noise the weights are the sizes.
    assert information_weights(changes, [0.0, 0.0], [30, 10], 1.0) == pytest.approx([0.75, 0.25])
    assert max(information_weights([NOTHING] * 3, [1e-9, 1.0, 1.0], [8, 1, 1], 0.5)) == pytest.approx(0.5)


def test_nobody_falls_far_below_its_share() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        k = int(torch.randint(2, 8, (1,), generator=generator))
        variances = (10 ** (4 * torch.rand(k, generator=generator) - 2)).tolist()
        sizes = (1 + 99 * torch.rand(k, generator=generator)).tolist()
        changes = list(torch.randn(k, 20, generator=generator))
        weights = information_weights(changes, variances, sizes, 1.0)
        assert math.isclose(sum(weights), 1.0)
        assert all(w > s / sum(sizes) / LIMIT**2 - 1e-12 for w, s in zip(weights, sizes, strict=True))


def test_equal_updates_come_back_and_buffers_of_whole_numbers_do_not_count() -> None:
    current = {"w": torch.zeros(2), "n": torch.tensor([3])}
    assert flat_change(current, {"w": torch.ones(2), "n": torch.tensor([9])}).tolist() == [1.0, 1.0]


def _banks() -> Scenario:
    data = json.loads(load_scenario("banks-network").to_json())
    data["contract"]["strategy"]["weighting"] = "information"
    for participant, epsilon in zip(data["roster"], (1.0, 2.0, 4.0, 8.0, 8.0), strict=True):
        participant["epsilon"] = epsilon
    return scenario_from_json(json.dumps(data))


def _weight_of(name: str, declared: dict[str, float]) -> float:
    """Return what a reply of 1 in every coordinate moves the model by, beside replies of 0."""
    scenario = _banks()
    start = initial_groups(scenario.contract, ["bank"])
    zero = {p: torch.zeros_like(t) for p, t in start["bank"].items()}
    replies = {s.name: zero for s in scenario.roster} | {name: {p: t + 1e-3 for p, t in zero.items()}}
    groups, _, _ = aggregate(
        scenario,
        scenario.contract.strategy.strategy(),
        Checkpoint(0, {"bank": zero}, {}, {}, []),
        replies,
        declared,
    )
    return float(groups["bank"]["head.bias"].mean()) / 1e-3


def test_an_understated_sigma_gains_nothing_and_an_honest_larger_one_is_believed() -> None:
    honest = _weight_of("new-car", {})  # the sigma of its proposal, epsilon 1
    assert _weight_of("new-car", {"new-car": 1e-9}) == honest
    assert _weight_of("radio-tv", {"radio-tv": 40.0}) < _weight_of("radio-tv", {})
    assert _weight_of("radio-tv", {}) > 280 / 1000  # epsilon 8: above its share of rows
    assert honest < 234 / 1000  # epsilon 1: below
