"""Aggregation in pieces: what the definitions say, whatever the sizes, with little memory beside the result."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import streaming
from strategies.arithmetic import weighted_mean
from strategies.base import Strategy, Update
from strategies.krum import MultiKrum
from strategies.median import Median
from strategies.streaming import sorting_network, squared_distances
from strategies.trimmed_mean import TrimmedMean

FLOATS = st.floats(-1e6, 1e6, width=32)


@pytest.fixture(autouse=True)
def small_pieces() -> Iterator[None]:
    """Pieces of a few coordinates and groups of a few updates: several of each, and a last one that is smaller."""
    kept = streaming.HELD, streaming.PIECE, streaming._TOGETHER, streaming._BLOCK
    streaming.HELD, streaming.PIECE, streaming._TOGETHER, streaming._BLOCK = 31, 7, 4, 3
    yield
    streaming.HELD, streaming.PIECE, streaming._TOGETHER, streaming._BLOCK = kept


@st.composite
def replies(draw: st.DrawFn) -> np.ndarray:
    n, d = draw(st.integers(3, 9)), draw(st.integers(0, 20))
    values = draw(st.lists(st.lists(FLOATS, min_size=d, max_size=d), min_size=n, max_size=n))
    return np.asarray(values, dtype=np.float32).reshape(n, d)


def _aggregate(strategy: Strategy, values: np.ndarray) -> np.ndarray:
    updates = [Update(f"p{i}", {"w": torch.from_numpy(row)}, 1 / len(values)) for i, row in enumerate(values)]
    new, _ = strategy.aggregate({"w": torch.zeros(values.shape[1])}, updates, {})
    assert new["w"].dtype == torch.float32
    return new["w"].numpy()


@pytest.mark.parametrize("n", range(1, 13))
def test_the_network_sorts_every_sequence_of_zeros_and_ones(n: int) -> None:
    # Knuth 3, section 5.3.4, theorem Z: then it sorts everything.
    values = np.array(list(itertools.product((0, 1), repeat=n)))
    for i, j in sorting_network(n):
        assert i < j
        values[:, i], values[:, j] = np.minimum(values[:, i], values[:, j]), np.maximum(values[:, i], values[:, j])
    assert (np.diff(values, axis=1) >= 0).all()


@settings(max_examples=30)
@given(replies())
def test_orders_are_those_of_the_definition(values: np.ndarray) -> None:
    exact = np.sort(values.astype(np.float64), axis=0)
    np.testing.assert_array_equal(_aggregate(Median(), values), np.median(exact, axis=0).astype(np.float32))
    np.testing.assert_allclose(
        _aggregate(TrimmedMean(), values), exact[1:-1].mean(axis=0).astype(np.float32), rtol=1e-7, atol=1e-38
    )


@settings(max_examples=30)
@given(replies(), st.lists(st.floats(0.1, 10), min_size=9, max_size=9))
def test_means_are_those_of_the_definition(values: np.ndarray, weights: Sequence[float]) -> None:
    weights = weights[: len(values)]
    states = [{"w": torch.from_numpy(row)} for row in values]
    wanted = np.average(values.astype(np.float64), axis=0, weights=weights)
    # Four float32 steps a group, each off by half a unit in the last place of the largest value and of the weight.
    scale = np.abs(values).max(initial=0)
    np.testing.assert_allclose(weighted_mean(states, weights)["w"].numpy(), wanted, rtol=0, atol=4 * 2**-23 * scale)
    doubles = weighted_mean([{"w": state["w"].double()} for state in states], weights)["w"]
    np.testing.assert_allclose(doubles.numpy(), wanted, rtol=0, atol=1e-14 * scale)


@settings(max_examples=30)
@given(st.lists(FLOATS, min_size=1, max_size=20), st.lists(st.floats(0.1, 10), min_size=1, max_size=9))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_mean_of_equal_updates_is_that_update(
    dtype: torch.dtype, values: Sequence[float], weights: Sequence[float]
) -> None:
    state = {"w": torch.tensor(values, dtype=dtype)}
    assert torch.equal(weighted_mean([state] * len(weights), weights)["w"], state["w"])


@settings(max_examples=30)
@given(replies())
def test_distances_are_those_of_the_definition(values: np.ndarray) -> None:
    exact = values.astype(np.float64)
    wanted = ((exact[:, None] - exact[None]) ** 2).sum(axis=2)
    got = squared_distances([[torch.from_numpy(row[:5]), torch.from_numpy(row[5:])] for row in values])
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-12)


def test_distances_between_near_vectors_keep_their_digits_wherever_the_origin_is() -> None:
    # A Gram product alone has a relative error of about 1e-16 x 1e20 / 1 here: no digit.
    points = torch.randn(6, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    points[3:] += 1e10
    exact = ((points[:, None] - points[None]) ** 2).sum(dim=2)
    for origin in (None, [torch.zeros(40)], [torch.full((40,), 1e10)], [torch.full((40,), -3e10)]):
        torch.testing.assert_close(squared_distances([[p] for p in points], origin), exact, rtol=1e-10, atol=0)


def test_equal_updates_give_that_very_update() -> None:
    row = np.random.default_rng(1).normal(size=50).astype(np.float32)
    for strategy in (Median(), TrimmedMean(), MultiKrum()):
        np.testing.assert_array_equal(_aggregate(strategy, np.stack([row] * 7)), row)


_MEMORY = """
import json, torch
from strategies.arithmetic import weighted_mean
from strategies.base import Update
from strategies.krum import MultiKrum
from strategies.median import Median
from strategies.trimmed_mean import TrimmedMean

def peak(call):
    call(updates(1 << 20))  # whatever libraries load and keep on the first call, several pieces long
    inputs = updates(COPY // 4)
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts from what is held now
    before = held("VmRSS")
    kept = call(inputs)
    return (held("VmHWM") - before) / COPY

def held(line):
    return next(1024 * int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(line + ":"))

def updates(n):
    return [Update(f"p{i}", {"w": torch.full((n,), float(i))}, 0.2) for i in range(5)]

COPY = 1 << 25
current = lambda inputs: {"w": torch.zeros(1).expand(len(inputs[0].state["w"]))}
print(json.dumps({
    "mean": peak(lambda u: weighted_mean([x.state for x in u], [1.0] * 5)),
    "weighted mean": peak(lambda u: weighted_mean([x.state for x in u], [1.0, 2.0, 3.0, 4.0, 5.0])),
    "median": peak(lambda u: Median().aggregate(current(u), u, {})),
    "trimmed mean": peak(lambda u: TrimmedMean().aggregate(current(u), u, {})),
    "multi-krum": peak(lambda u: MultiKrum().aggregate(current(u), u, {})),
    "a copy of all": peak(lambda u: torch.stack([x.state["w"] for x in u]).median(dim=0).values),
}))
"""


@pytest.mark.end_to_end
def test_memory_beside_the_updates_is_the_result_and_little_more() -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'platform'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", _MEMORY], capture_output=True, text=True, env=environment, check=True
    )
    copies = json.loads(done.stdout)
    assert copies.pop("a copy of all") > 5  # the measure sees copies
    assert all(0.9 < beside < 1.2 for beside in copies.values()), copies
