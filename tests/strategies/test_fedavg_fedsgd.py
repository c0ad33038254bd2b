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
