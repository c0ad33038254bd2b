"""The same algorithm of Flower on the same replies (adaptive coordinators: see test_server_optimizers)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from flower_side import aggregated, reply
from flwr.serverapp import strategy as flower

from strategies.base import Strategy, Update
from strategies.bulyan import Bulyan, chosen, nearest_to_median
from strategies.fedavg import FedAvg
from strategies.krum import Krum, MultiKrum, distances, select
from strategies.median import Median
from strategies.qfedavg import QFedAvg
from strategies.registry import make
from strategies.streaming import squared_distances
from strategies.trimmed_mean import TrimmedMean

N, SIZES = 11, (5, 1, 2, 9, 4, 4, 7, 3, 3, 6, 8)
State = dict[str, torch.Tensor]


def _replies(seed: int, attackers: int = 0) -> tuple[State, list[State]]:
    generator = torch.Generator().manual_seed(seed)
    current = {
        "a": torch.randn(2, 3, dtype=torch.float64, generator=generator),
        "b": torch.randn(4, dtype=torch.float64, generator=generator),
    }
    states = [
        {n: t + torch.randn(t.shape, dtype=torch.float64, generator=generator) for n, t in current.items()}
        for _ in range(N)
    ]
    for state in states[:attackers]:
        for tensor in state.values():
            tensor.add_(40)
    return current, states


def _ours(strategy: Strategy, current: State, states: Sequence[State], **more: Any) -> dict[str, np.ndarray]:
    shares = [s / sum(SIZES) for s in SIZES] if strategy.fit.weights == "any" else [1 / N] * N
    losses = more.get("losses", [float("nan")] * N)
    updates = [
        Update(f"p{i:02d}", state, share, learning_rate=more.get("rate", 1.0), loss=loss)
        for i, (state, share, loss) in enumerate(zip(states, shares, losses, strict=True))
    ]
    new, _ = strategy.aggregate(current, updates, {})
    return {name: tensor.numpy() for name, tensor in new.items()}


def _theirs(strategy: Any, current: State, states: Sequence[State], **more: Any) -> dict[str, np.ndarray]:
    losses = more.get("losses", [0.0] * N)
    replies = [
        reply({n: t.numpy().copy() for n, t in state.items()}, size, train_loss=loss)
        for state, size, loss in zip(states, more.get("sizes", SIZES), losses, strict=True)
    ]
    return aggregated(strategy, {n: t.numpy() for n, t in current.items()}, replies)


def _same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (FedAvg(), flower.FedAvg()),
        (make("fedprox", options={"mu": 1.0}), flower.FedProx(proximal_mu=1.0)),
        (Median(), flower.FedMedian()),
        (TrimmedMean(attackers=2), flower.FedTrimmedAvg(beta=2 / N)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_it_gives_what_flower_gives(ours: Strategy, theirs: Any) -> None:
    for seed in range(3):
        current, states = _replies(seed)
        _same(_ours(ours, current, states), _theirs(theirs, current, states))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Krum(attackers=2), flower.Krum(num_malicious_nodes=2)),
        (
            MultiKrum(attackers=2, select=4),
            flower.MultiKrum(num_malicious_nodes=2, num_nodes_to_select=4),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_krum_gives_what_flower_gives(ours: Strategy, theirs: Any) -> None:
    for seed in range(3):
        current, states = _replies(seed, attackers=2)
        # Flower weighs the chosen ones by size; one vote each is what the paper has.
        _same(_ours(ours, current, states), _theirs(theirs, current, states, sizes=[1] * N))


def test_bulyan_gives_what_flower_gives_of_the_same_choice() -> None:
    for seed in range(5):
        current, states = _replies(seed, attackers=2)
        ours = chosen(distances(current, states), [f"p{i:02d}" for i in range(N)], 2, N - 4)
        assert not {0, 1} & set(ours)
        theirs = flower.Bulyan(num_malicious_nodes=2, selection_rule=lambda c, _f, _n, o=ours: [c[i] for i in o])
        _same(_ours(Bulyan(attackers=2), current, states), _theirs(theirs, current, states))


def test_bulyan_gives_what_flower_gives_where_both_choose_alike() -> None:
    # Flower takes the nine best of one scoring; for these replies that is the choice one at a time.
    current, states = _replies(4, attackers=1)
    squared = distances(current, states)
    names = [f"p{i:02d}" for i in range(N)]
    assert set(chosen(squared, names, 1, N - 2)) == set(select(squared, names, 1, N - 2))
    _same(_ours(Bulyan(), current, states), _theirs(flower.Bulyan(num_malicious_nodes=1), current, states))


@pytest.mark.parametrize("q", [0.0, 0.1, 1.0, 5.0])
def test_qfedavg_gives_what_flower_gives(q: float) -> None:
    losses = [0.1 + 0.2 * i for i in range(N)]
    for seed in range(3):
        current, states = _replies(seed)
        theirs = _theirs(flower.QFedAvg(client_learning_rate=0.5, q=q), current, states, losses=losses)
        # Flower counts everybody alike.
        equal = [
            Update(f"p{i}", s, 1 / N, learning_rate=0.5, loss=v)
            for i, (s, v) in enumerate(zip(states, losses, strict=True))
        ]
        new, _ = QFedAvg(q=q).aggregate(current, equal, {})
        _same({n: t.numpy() for n, t in new.items()}, theirs)


def test_qfedavg_by_hand() -> None:
    # From 0, L = 2. a: 1, F = 1: d = -2. b: -1, F = 3: d = 2. q = 1, p = 1/2 each:
    # step = (1 x -2 + 3 x 2) / 2 = 2; h = (1 x 4 + 2 x 1 + 1 x 4 + 2 x 3) / 2 = 8; theta = -1/4: towards b.
    updates = [
        Update("a", {"w": torch.tensor([1.0])}, 0.5, learning_rate=0.5, loss=1.0),
        Update("b", {"w": torch.tensor([-1.0])}, 0.5, learning_rate=0.5, loss=3.0),
    ]
    assert QFedAvg().aggregate({"w": torch.zeros(1)}, updates, {})[0]["w"].item() == pytest.approx(-0.25)
    # q = 0 is the weighted mean.
    assert QFedAvg(q=0).aggregate({"w": torch.zeros(1)}, updates, {})[0]["w"].item() == 0
    with pytest.raises(ValueError, match="loss: wanted numbers from 0 to loss_bound = 2"):
        QFedAvg(loss_bound=2.0).aggregate({"w": torch.zeros(1)}, updates, {})


def test_bulyan_by_hand() -> None:
    # n = 7, f = 1. Krum takes 5 of 0, 1, 2, 3, 4, 5, 100; their median's 3 nearest are averaged.
    points = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [100.0]], dtype=torch.float64)
    # All of 1..4 have two neighbours at distance 1; 2 and 3 two more at 2, and so 1 + 1 + 4 + 4 = 10, the least. A tie
    # goes to the earlier name.
    order = chosen(squared_distances([[p] for p in points]), list("abcdefg"), 1, 5)
    assert order[0] == 2
    assert 6 not in order
    values = torch.tensor([[0.0], [1.0], [2.0], [7.0], [9.0]], dtype=torch.float64)
    assert nearest_to_median(list(values), 3).item() == 1.0  # of 0, 1, 2: the nearest to the median 2
    assert nearest_to_median(list(values), 5).item() == pytest.approx(19 / 5)
    with pytest.raises(ValueError, match="at least 7"):
        Bulyan().aggregate({"w": torch.zeros(1)}, [Update("p", {"w": torch.zeros(1)}, 1 / 6)] * 6, {})
