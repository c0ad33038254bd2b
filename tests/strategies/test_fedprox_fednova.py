"""FedProx and FedNova on quadratics with known answers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from strategies.base import LocalHalf, Update
from strategies.fedavg import FedAvg
from strategies.fednova import FedNova, effective_steps
from strategies.fedprox import FedProx

# F_k = a_k / 2 (theta - c_k)^2
SLOPES, CENTRES = (1.0, 4.0), (0.0, 1.0)


def _local(strategy: FedAvg, start: torch.Tensor, slope: float, centre: float, steps: int, rate: float) -> torch.Tensor:
    parameter = nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([parameter], lr=rate)
    if isinstance(strategy, LocalHalf):
        strategy.attach(optimizer, [(parameter, start)])
    for _ in range(steps):
        parameter.grad = slope * (parameter.detach() - centre)
        optimizer.step()
    return parameter.detach()


def _train(strategy: FedAvg | FedNova, rounds: int, steps: tuple[int, int], rate: float, **kinds: FedAvg) -> float:
    theta = torch.zeros(1, dtype=torch.float64)
    local = kinds.get("local", FedAvg())
    for _ in range(rounds):
        updates = [
            Update(f"p{i}", {"w": _local(local, theta, SLOPES[i], CENTRES[i], steps[i], rate)}, 0.5, steps=steps[i])
            for i in range(2)
        ]
        theta = strategy.aggregate({"w": theta}, updates, {})[0]["w"]
    return theta.item()


def test_one_participant_solves_its_proximal_problem() -> None:
    # argmin a/2 (x - c)^2 + mu/2 (x - r)^2 = (a c + mu r) / (a + mu) = (4 x 1 + 10 x 3) / 14.
    start = torch.tensor([3.0], dtype=torch.float64)
    got = _local(FedProx(mu=10.0), start, 4.0, 1.0, steps=500, rate=0.05)
    assert got.item() == pytest.approx(34 / 14, abs=1e-9)


@pytest.mark.end_to_end
def test_its_fixed_point_is_the_papers_and_not_fedavgs() -> None:
    # Solved to the end, theta is fixed where sum_k a_k (c_k - theta) / (a_k + mu) = 0. mu = 10:
    # w_1 = 1/11, w_2 = 4/14, theta = w_2 / (w_1 + w_2) = 22/29. mu = 0 (FedAvg): the mean of the centres, 1/2.
    prox = FedProx(mu=10.0)
    assert _train(prox, 200, (400, 400), 0.05, local=prox) == pytest.approx(22 / 29, abs=1e-6)
    assert _train(FedAvg(), 20, (400, 400), 0.05) == pytest.approx(1 / 2, abs=1e-6)


def test_mu_zero_is_fedavg_to_the_bit() -> None:
    prox = FedProx(mu=0.0)
    assert _train(prox, 5, (3, 3), 0.1, local=prox) == _train(FedAvg(), 5, (3, 3), 0.1)


def test_fednova_by_hand() -> None:
    # d = -2/2 and -9/3, mean -2; tau_eff = 2.5; theta = 0 + 2.5 x 2 = 5. FedAvg: 5.5.
    updates = [
        Update("a", {"w": torch.tensor([2.0])}, 0.5, steps=2),
        Update("b", {"w": torch.tensor([9.0])}, 0.5, steps=3),
    ]
    assert FedNova().aggregate({"w": torch.zeros(1)}, updates, {})[0]["w"].item() == 5.0
    assert FedAvg().aggregate({"w": torch.zeros(1)}, updates, {})[0]["w"].item() == 5.5


def test_effective_steps_by_hand() -> None:
    assert effective_steps(7, 0.0) == 7
    # b = .5, three gradients count 1 + .5 + .25, 1 + .5 and 1.
    assert effective_steps(3, 0.5) == pytest.approx(4.25)


@pytest.mark.end_to_end
def test_fednova_ends_at_the_optimum_of_the_mean_and_fedavg_does_not() -> None:
    # Optimum of (F_1 + F_2) / 2 is 4/5. With 1 and 20 small steps FedAvg weighs them 1 : 20: about 80/81.
    assert _train(FedNova(), 3000, (1, 20), 1e-3) == pytest.approx(0.8, abs=0.01)
    assert _train(FedAvg(), 3000, (1, 20), 1e-3) == pytest.approx(80 / 81, abs=0.01)
