"""SCAFFOLD on quadratics with known answers, FedAvg beside it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from strategies.base import Controlled, LocalHalf, Strategy, Update
from strategies.fedavg import FedAvg
from strategies.fedprox import FedProx
from strategies.registry import make
from strategies.scaffold import Scaffold, member_key

# F_k = a_k / 2 (theta - c_k)^2. The optimum of p_1 F_1 + p_2 F_2 with p = (1/2, 1/2): (1 x 0 + 4 x 1) / 5 = 4/5.
SLOPES, CENTRES = (1.0, 4.0), (0.0, 1.0)
STEPS, RATE = 10, 0.05
State = dict[str, torch.Tensor]


def _local(strategy: Strategy, start: torch.Tensor, which: int, control: torch.Tensor | None, momentum: float = 0.0):
    parameter = nn.Parameter(start.clone())
    optimizer = torch.optim.SGD([parameter], lr=RATE, momentum=momentum)
    if isinstance(strategy, LocalHalf):
        strategy.attach(optimizer, [(parameter, start)])
    if isinstance(strategy, Controlled):
        assert control is not None
        strategy.correct(optimizer, [(parameter, control)])
    for _ in range(STEPS):
        parameter.grad = SLOPES[which] * (parameter.detach() - CENTRES[which])
        optimizer.step()
    return parameter.detach()


def _play(
    strategy: Strategy,
    rounds: int,
    weights: tuple[float, float] = (0.5, 0.5),
    absent: int = 0,
    momentum: float = 0.0,
    start: float = 0.0,
) -> tuple[float, State]:
    """Two participants; every `absent`-th round only one of them answers, in turn."""
    theta, memory = torch.full((1,), start, dtype=torch.float64), {}
    length = sum(sum(momentum**j for j in range(STEPS - i)) for i in range(STEPS))
    for number in range(rounds):
        updates = []
        for k in range(2):
            if absent and number % absent == 0 and k == (number // absent) % 2:
                continue
            control = strategy.control({"w": theta}, memory, f"p{k}")["w"] if isinstance(strategy, Controlled) else None
            state = {"w": _local(strategy, theta, k, control, momentum)}
            updates.append(Update(f"p{k}", state, weights[k], steps=length, learning_rate=RATE, share=weights[k]))
        whole = sum(u.weight for u in updates)
        updates = [
            Update(u.participant, u.state, u.weight / whole, steps=u.steps, learning_rate=RATE, share=u.share)
            for u in updates
        ]
        new, memory = strategy.aggregate({"w": theta}, updates, memory)
        theta = new["w"]
    return theta.item(), memory


def test_one_round_by_hand() -> None:
    # K = 2, eta = .1, from x = 1, c = c_i = 0. F_1: g = 1, then .9: y = 1 - .1 - .09 = .81, c_1 = .19 / .2 = .95.
    # F_2 = 2 (x - 1)^2: no gradient at 1: y = 1, c_2 = 0. x = .905, c = .475, c - c_1 = -.475, c - c_2 = .475.
    start = {"w": torch.tensor([1.0], dtype=torch.float64)}
    updates = [
        Update(name, {"w": torch.tensor([y], dtype=torch.float64)}, 0.5, steps=2, learning_rate=0.1)
        for name, y in (("a", 0.81), ("b", 1.0))
    ]
    new, memory = Scaffold().aggregate(start, updates, {})
    assert new["w"].item() == pytest.approx(0.905)
    assert memory["c/w"].item() == pytest.approx(0.475)
    assert memory[member_key("a", "w")].item() == pytest.approx(0.95)
    assert memory[member_key("b", "w")].item() == 0
    assert Scaffold().control(new, memory, "a")["w"].item() == pytest.approx(-0.475)
    assert Scaffold().control(new, memory, "b")["w"].item() == pytest.approx(0.475)
    # Nobody has heard of this one: it gets c.
    assert Scaffold().control(new, memory, "new")["w"].item() == pytest.approx(0.475)
    # eta_g = .5 goes half of the way: 1 - .5 x .095.
    half, _ = Scaffold(server_learning_rate=0.5).aggregate(start, updates, {})
    assert half["w"].item() == pytest.approx(0.9525)


def test_its_fixed_point_is_the_optimum_and_fedavgs_is_not() -> None:
    # FedAvg stops where sum_k (1 - (1 - eta a_k)^K) (c_k - theta) = 0: 1 - .95^10 = .401263 and 1 - .8^10 = .892626,
    # theta = .892626 / 1.293889 = .689878. That is .11 from the optimum, and stays there for ever.
    fedavg, _ = _play(FedAvg(), 50)
    drift = [1 - (1 - RATE * a) ** STEPS for a in SLOPES]
    assert fedavg == pytest.approx(drift[1] / sum(drift), abs=1e-9)
    assert abs(fedavg - 0.8) > 0.1
    scaffold, memory = _play(Scaffold(), 150)
    assert scaffold == pytest.approx(0.8, abs=1e-6)
    # At the optimum c_i is the gradient of F_i, and c their mean: zero.
    for k in range(2):
        assert memory[member_key(f"p{k}", "w")].item() == pytest.approx(SLOPES[k] * (0.8 - CENTRES[k]), abs=1e-6)
    assert memory["c/w"].item() == pytest.approx(0, abs=1e-6)


def test_an_alias_of_fedavg_would_fail() -> None:
    class Alias(FedAvg):
        pass

    with pytest.raises(AssertionError):
        assert _play(Alias(), 50)[0] == pytest.approx(0.8, abs=1e-6)
    assert not isinstance(make("fedavg"), Controlled)
    assert isinstance(make("scaffold"), Controlled)


def test_weights_momentum_and_absent_participants_keep_the_optimum() -> None:
    # Optimum of .8 F_1 + .2 F_2: (.8 x 1 x 0 + .2 x 4 x 1) / (.8 + .8) = 1/2.
    assert _play(Scaffold(), 150, weights=(0.8, 0.2))[0] == pytest.approx(0.5, abs=1e-6)
    assert _play(Scaffold(), 150, momentum=0.3)[0] == pytest.approx(0.8, abs=1e-6)
    # In every fifth round one is missing, and the other's local optimum pulls: c must still be the mean of both.
    _, memory = _play(Scaffold(), 60, absent=5)
    both = sum(memory[member_key(f"p{k}", "w")].item() for k in range(2)) / 2
    assert memory["c/w"].item() == pytest.approx(both, abs=1e-12)


def test_fedprox_at_mu_10_on_quadratics_in_closed_form() -> None:
    # One step from x: y = x - eta (a (x - c) + 10 (x - x)); then the pull. K steps of eta lead from x to
    # y* + (1 - eta (a + mu))^K (x - y*), y* = (a c + mu x) / (a + mu). One round of both, from 3, eta = .05, K = 10:
    mu, x = 10.0, 3.0
    ends = []
    for a, c in zip(SLOPES, CENTRES, strict=True):
        solved = (a * c + mu * x) / (a + mu)
        ends.append(solved + (1 - RATE * (a + mu)) ** STEPS * (x - solved))
    assert _play(FedProx(mu=mu), 1, start=x)[0] == pytest.approx(sum(ends) / 2, abs=1e-12)
    # For ever: sum_k k_k (c_k - theta) = 0 with k_k = a_k / (a_k + mu) (1 - (1 - eta (a_k + mu))^K).
    pull = [a / (a + mu) * (1 - (1 - RATE * (a + mu)) ** STEPS) for a in SLOPES]
    assert _play(FedProx(mu=mu), 200)[0] == pytest.approx(pull[1] / sum(pull), abs=1e-9)
