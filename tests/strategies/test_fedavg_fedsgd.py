"""Each strategy against its paper's update on a case worked by hand."""

from __future__ import annotations

import pytest
import torch

from strategies.base import Update
from strategies.fedavg import FedAvg
from strategies.fedsgd import FedSGD
from strategies.registry import make


def _updates(*values: list[float]) -> list[Update]:
    return [Update(f"p{i}", {"w": torch.tensor(v)}, 1 / len(values)) for i, v in enumerate(values)]


def test_fedsgd_worked_example() -> None:
    # Gradients [1, 2] and [-1, -2] have the mean [0, 0], so nothing moves. A text that prints
    # [-.1, -.2] has applied one client's gradient only.
    new, memory = FedSGD(server_learning_rate=0.1).aggregate(
        {"w": torch.zeros(2)}, _updates([1.0, 2.0], [-1.0, -2.0]), {}
    )
    assert new["w"].tolist() == [0.0, 0.0]
    assert memory == {}


def test_fedsgd_moves_against_the_mean_gradient() -> None:
    # theta - alpha mean = 1 - .5 x (2 + 4) / 2 = -.5
    new, _ = FedSGD(server_learning_rate=0.5).aggregate({"w": torch.ones(1)}, _updates([2.0], [4.0]), {})
    assert new["w"].item() == pytest.approx(-0.5)


def test_fedavg_is_the_mean() -> None:
    new, memory = FedAvg().aggregate({"w": torch.zeros(1)}, _updates([1.0], [4.0]), {})
    assert new["w"].item() == 2.5
    assert memory == {}


def test_fedavgm_by_hand() -> None:
    # beta = .5, eta = 1. Round 1: d = 0 - 2 = -2, v = -2, theta = 0 + 2 = 2.
    # Round 2: mean 3, d = 2 - 3 = -1, v = .5 x -2 - 1 = -2, theta = 2 + 2 = 4.
    strategy = FedAvg(server_momentum=0.5)
    first, memory = strategy.aggregate({"w": torch.zeros(1)}, _updates([2.0]), {})
    second, _ = strategy.aggregate(first, _updates([3.0]), memory)
    assert first["w"].item() == pytest.approx(2)
    assert second["w"].item() == pytest.approx(4)


def test_unknown_strategy_is_named() -> None:
    with pytest.raises(ValueError, match="fedavg, fedsgd"):
        make("fedmagic", server_learning_rate=1.0, server_momentum=0.0)


@pytest.mark.parametrize("name", ["fedavg", "fedsgd", "fednova"])
def test_two_clients_recover_the_slope_of_y_is_2x(name: str) -> None:
    # y = 2x on x = 1..5 at one client and 5..9 at the other; gradient descent on the mean squared error from 0. Both
    # clients' own optimum is 2, so every mean of them is.
    x = [torch.arange(1.0, 6.0), torch.arange(5.0, 10.0)]
    strategy = make(name, server_learning_rate=0.01 if name == "fedsgd" else 1.0)
    theta, memory = {"w": torch.zeros(1)}, {}
    for _ in range(100):
        updates = []
        for i, values in enumerate(x):
            w = theta["w"].clone()
            for _ in range(5):
                gradient = 2 * (values * (w * values - 2 * values)).mean()
                w = gradient.reshape(1) if strategy.fit.gradient else w - 0.01 * gradient
                if strategy.fit.gradient:
                    break
            updates.append(Update(f"p{i}", {"w": w}, 0.5, steps=5.0))
        theta, memory = strategy.aggregate(theta, updates, memory)
    assert theta["w"].item() == pytest.approx(2.0, abs=1e-5)
