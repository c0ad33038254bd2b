"""The attack bench in small: synthetic rows, few rounds. `benchmarks/attacks.py` has the table."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROUNDS, SEED = 5, 43


@pytest.fixture(scope="module")
def bench() -> Any:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "attacks.py"
    spec = importlib.util.spec_from_file_location("attack_bench", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["attack_bench"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def honest(bench: Any) -> Any:
    return bench.play(bench.STRATEGIES[bench.DEFAULT], "none", private=False, seed=SEED, rounds=ROUNDS)


def test_nobody_honest_loses_half_of_its_weight(honest: Any) -> None:
    assert len(honest.weights) == 7
    assert min(honest.weights.values()) >= 0.5


@pytest.mark.parametrize(
    "attack", ["sign flip", "scaling", "label flip", "NaN", "shape", "understated sigma", "sleeper"]
)
def test_the_default_withstands(bench: Any, honest: Any, attack: str) -> None:
    played = bench.play(bench.STRATEGIES[bench.DEFAULT], attack, private=False, seed=SEED, rounds=ROUNDS)
    assert honest.auc - played.auc <= 0.03


def test_the_attacks_are_attacks(bench: Any) -> None:
    """FedAvg falls to what the default withstands: a bench that nothing fails shows nothing."""
    fedavg = bench.STRATEGIES["fedavg"]
    free = bench.play(fedavg, "none", private=False, seed=SEED, rounds=ROUNDS).auc
    flipped = bench.play(fedavg, "sign flip", private=False, seed=SEED, rounds=ROUNDS).auc
    assert free - flipped > 0.05


def test_weights_are_those_of_the_rule(bench: Any) -> None:
    played = bench.play(bench.STRATEGIES["fedavg"], "none", private=False, seed=SEED, rounds=2)
    assert list(played.weights.values()) == pytest.approx([1.0] * 7, abs=1e-3)
    krum = bench.play(bench.STRATEGIES["krum"], "none", private=False, seed=SEED, rounds=2)
    assert sorted(krum.weights.values())[:5] == pytest.approx([0.0] * 5, abs=1e-6)
