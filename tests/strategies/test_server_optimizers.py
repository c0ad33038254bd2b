"""Optimizers at the coordinator: by hand, against torch step by step, and against Flower on the same inputs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from consortia.coordinator.checkpoint import Checkpoint, load_latest, save
from strategies.base import Strategy, Update
from strategies.fedopt import FedAdagrad, FedAdam, FedYogi
from strategies.server_optimizer import OPTIMIZERS, ServerOptimizer

ROUNDS = 6


def _means() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, dtype=torch.float64, generator=generator) for _ in range(ROUNDS)]


def _play(strategy: Strategy, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Two participants whose replies differ and whose mean is given."""
    current, memory, seen = {"w": torch.zeros(2, 3, dtype=dtype)}, {}, []
    for mean in _means():
        pair = [Update("a", {"w": (mean - 1).to(dtype)}, 0.5), Update("b", {"w": (mean + 1).to(dtype)}, 0.5)]
        current, memory = strategy.aggregate(current, pair, memory)
        seen.append(current["w"])
    return seen


def test_sgd_and_adam_by_hand() -> None:
    update = [Update("a", {"w": torch.tensor([2.0, -4.0])}, 1.0)]
    start = {"w": torch.zeros(2)}
    # Pseudo-gradient 0 - mean = (-2, 4); theta = 0 - .5 x that.
    new, memory = ServerOptimizer(optimizer="sgd", server_learning_rate=0.5).aggregate(start, update, {})
    assert new["w"].tolist() == [1.0, -2.0]
    assert memory == {}
    # Adam's first step is lr x sign(gradient).
    new, memory = ServerOptimizer(optimizer="adam", server_learning_rate=0.1).aggregate(start, update, {})
    assert new["w"].tolist() == pytest.approx([0.1, -0.1])
    assert set(memory) == {"w/step", "w/exp_avg", "w/exp_avg_sq"}
    # Adagrad's too; its second, with an equal gradient, is lr / sqrt(2).
    adagrad = ServerOptimizer(optimizer="adagrad", server_learning_rate=0.1)
    _, memory = adagrad.aggregate(start, update, {})
    new, _ = adagrad.aggregate(start, update, memory)
    assert new["w"].tolist() == pytest.approx([0.1 / 2**0.5, -0.1 / 2**0.5])


def test_fedopt_by_hand() -> None:
    # Delta = 2, beta_1 = beta_2 = .5, tau = 1, v0 = 1: m = 1.
    update = [Update("a", {"w": torch.tensor([2.0])}, 1.0)]
    same = {"server_learning_rate": 1.0, "beta_1": 0.5, "beta_2": 0.5, "tau": 1.0}
    for kind, v in ((FedAdagrad, 1 + 4), (FedAdam, 0.5 + 2), (FedYogi, 1 + 0.5 * 4)):
        new, memory = kind(**same).aggregate({"w": torch.zeros(1)}, update, {})
        assert memory["v/w"].item() == pytest.approx(v)
        assert memory["m/w"].item() == pytest.approx(1)
        assert new["w"].item() == pytest.approx(1 / (v**0.5 + 1))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_it_is_torchs_own_optimizer(name: str) -> None:
    arguments: tuple[tuple[str, Any], ...] = (("momentum", 0.9),) if name in {"sgd", "rmsprop"} else ()
    ours = _play(ServerOptimizer(optimizer=name, server_learning_rate=0.05, arguments=arguments))
    parameter = torch.nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    decay = {} if name == "rprop" else {"weight_decay": 0.0}
    theirs = getattr(torch.optim, OPTIMIZERS[name])([parameter], lr=0.05, **decay, **dict(arguments))
    for mean, got in zip(_means(), ours, strict=True):
        parameter.grad = parameter.detach() - mean
        theirs.step()
        torch.testing.assert_close(got, parameter.detach(), rtol=1e-12, atol=1e-12)


_ALL: list[Strategy] = [
    *(ServerOptimizer(optimizer=name, server_learning_rate=0.05) for name in sorted(OPTIMIZERS)),
    FedAdagrad(),
    FedAdam(),
    FedYogi(),
]


@pytest.mark.parametrize("strategy", _ALL, ids=str)
def test_a_resumed_run_is_identical_to_the_bit(strategy: Strategy, tmp_path: Path) -> None:
    undisturbed = _play(strategy, torch.float32)
    current, memory = {"w": torch.zeros(2, 3)}, {}
    for number, mean in enumerate(_means(), start=1):
        pair = [Update("a", {"w": (mean - 1).float()}, 0.5), Update("b", {"w": (mean + 1).float()}, 0.5)]
        current, memory = strategy.aggregate(current, pair, memory)
        save(tmp_path, Checkpoint(number, {"g": current}, {"g": memory}, {}, []))
        loaded = load_latest(tmp_path)
        assert loaded is not None
        current, memory = loaded.groups["g"], loaded.memory.get("g", {})
        assert torch.equal(current["w"], undisturbed[number - 1])


def _flower(strategy: Any, first_round: int) -> list[np.ndarray]:
    """Flower's strategy on the same replies; no grid is needed for the arithmetic."""
    current, seen = np.zeros((2, 3)), []
    for number, mean in enumerate(_means(), start=first_round):
        strategy.current_arrays = {"w": current}
        replies = [_reply(mean.numpy() - 1), _reply(mean.numpy() + 1)]
        arrays, _ = strategy.aggregate_train(number, replies)
        current = arrays["w"].numpy()
        seen.append(current)
    return seen


def _reply(values: np.ndarray) -> SimpleNamespace:
    content = RecordDict(
        {"arrays": ArrayRecord({"w": Array(values)}), "metrics": MetricRecord({"num-examples": 1})},
    )
    # What Flower's strategies ask of a message; a real one needs a running task.
    return SimpleNamespace(content=content, has_error=lambda: False, metadata=SimpleNamespace(src_node_id=1))


_TERMS = {"eta": 0.05, "tau": 1e-3}


def test_fedadagrad_is_flowers() -> None:
    theirs = _flower(flower.FedAdagrad(**_TERMS), 1)
    for ours in (
        FedAdagrad(server_learning_rate=0.05, initial=0.0),
        ServerOptimizer(optimizer="adagrad", server_learning_rate=0.05, arguments=(("eps", 1e-3),)),
    ):
        np.testing.assert_allclose(np.stack(_play(ours)), np.stack(theirs), rtol=1e-12)


def test_fedyogi_is_flowers() -> None:
    theirs = _flower(flower.FedYogi(**_TERMS), 1)
    ours = _play(FedYogi(server_learning_rate=0.05, initial=0.0))
    np.testing.assert_allclose(np.stack(ours), np.stack(theirs), rtol=1e-12)


def test_flowers_fedadam_is_torchs_adam_but_for_a_round() -> None:
    # Flower corrects the bias of round t with the powers of t + 1. Told it is one round earlier, and with tau too
    # small to matter (torch corrects it, Flower does not), it is torch's Adam.
    terms = (("betas", (0.9, 0.99)), ("eps", 1e-14))
    ours = _play(ServerOptimizer(optimizer="adam", server_learning_rate=0.05, arguments=terms))
    theirs = _flower(flower.FedAdam(eta=0.05, tau=1e-14), 0)
    np.testing.assert_allclose(np.stack(ours), np.stack(theirs), rtol=1e-9)
    late = _flower(flower.FedAdam(eta=0.05, tau=1e-14), 1)
    assert not np.allclose(np.stack(ours), np.stack(late), rtol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"optimizer": "lbfgs"}, "wanted one of"),
        ({"optimizer": "sgd", "arguments": (("betas", 1.0),)}, "betas: wanted one of dampening"),
        ({"optimizer": "adam", "arguments": (("betas", (2.0, 0.9)),)}, "that torch takes"),
        ({"optimizer": "adam", "arguments": (("maximize", True),)}, "maximize: wanted"),
    ],
)
def test_what_torch_cannot_do_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServerOptimizer(**arguments)


@pytest.mark.parametrize("bad", [{"beta_1": 1.0}, {"beta_2": -0.1}, {"tau": 0.0}, {"initial": float("nan")}])
def test_fedopt_refuses(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        FedAdam(**bad)
