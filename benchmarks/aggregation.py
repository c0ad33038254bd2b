"""Seconds of CPU that aggregation takes beside Flower's own aggregators, in one process and interleaved.

    python benchmarks/aggregation.py [--quick] [--only mean,Krum] [--json FILE]

Ten updates of 25 million random floats (one million with `--quick`). Arithmetic alone on both sides: Flower's
strategies get arrays that are deserialised already, and their result is not serialised. One thread; ratios are Flower's
seconds ÷ ours of the same repeat. 25 million floats for Flower's median and Krum want about 4 GB of memory.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before any library reads it

import gc
import logging
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from numpy.typing import NDArray
from ratios import Found, options, row, told, write

from strategies.base import Strategy, Update
from strategies.fedavg import FedAvg
from strategies.krum import Krum
from strategies.median import Median
from strategies.trimmed_mean import TrimmedMean

UPDATES = 10
Values = NDArray[np.float32]
PAIRS: dict[str, tuple[Strategy, Any, list[float]]] = {
    "mean": (FedAvg(), flower.FedAvg(), [1.0] * UPDATES),
    "weighted mean": (FedAvg(), flower.FedAvg(), [float(1 + i) for i in range(UPDATES)]),
    "median": (Median(), flower.FedMedian(), [1.0] * UPDATES),
    "trimmed mean": (TrimmedMean(attackers=2), flower.FedTrimmedAvg(beta=0.2), [1.0] * UPDATES),
    "Krum": (Krum(attackers=2), flower.Krum(num_malicious_nodes=2), [1.0] * UPDATES),
}


class Ready:
    """Flower's arrays without bytes: each knows where its values are held."""

    def __init__(self, updates: list[Values]) -> None:
        self.held = {str(i).encode(): values for i, values in enumerate(updates)}

    def keep(self, values: NDArray[Any]) -> Array:
        self.held[b"result"] = values
        return Array("float32", values.shape, "numpy.ndarray", b"result")

    def replies(self, weights: list[float]) -> list[Any]:
        """What Flower's strategies ask of a message; they take it apart, so each call wants its own."""
        out = []
        for key, weight in zip(sorted(self.held.keys() - {b"result"}), weights, strict=True):
            arrays = ArrayRecord({"w": Array("float32", self.held[key].shape, "numpy.ndarray", key)})
            content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": weight})})
            about = SimpleNamespace(src_node_id=int(key))
            out.append(SimpleNamespace(content=content, has_error=lambda: False, metadata=about))
        return out


def theirs(strategy: Any, ready: Ready, weights: list[float]) -> tuple[float, Values]:
    replies = ready.replies(weights)
    with (
        mock.patch.object(Array, "numpy", lambda array: ready.held[array.data]),
        mock.patch.object(Array, "from_numpy_ndarray", staticmethod(ready.keep)),
    ):
        start = time.process_time()
        arrays, _ = strategy.aggregate_train(1, replies)
        taken = time.process_time() - start
        return taken, arrays["w"].numpy()


def ours(strategy: Strategy, updates: list[Values], weights: list[float]) -> tuple[float, Values]:
    states = [{"w": torch.from_numpy(values)} for values in updates]
    current = {"w": torch.zeros_like(states[0]["w"])}
    start = time.process_time()
    new, _ = strategy.aggregate(
        current,
        [Update(f"p{i}", state, w / sum(weights)) for i, (state, w) in enumerate(zip(states, weights, strict=True))],
        {},
    )
    return time.process_time() - start, new["w"].numpy()


def measure(names: list[str], updates: list[Values], repeats: int, show: Callable[[Found], None]) -> list[Found]:
    found: list[Found] = []
    ready = Ready(updates)
    for name in names:
        mine, flowers, weights = PAIRS[name]
        own, other = [], []
        for _ in range(repeats):
            seconds, got = ours(mine, updates, weights)
            own.append(seconds)
            seconds, wanted = theirs(flowers, ready, weights)
            other.append(seconds)
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)
            del got, wanted
        size = f"{UPDATES} updates of {updates[0].size:,} floats"
        pair = [row(f"{name}, {size}, Flower", other, other), row(f"{name}, {size}", own, other)]
        for one in pair:
            show(one)
        found += pair
    return found


def main() -> int:
    chosen = options(
        "CPU seconds of aggregation beside Flower's own",
        "a million floats",
        only=(str, f"what to measure, with commas between; if not said, {','.join(PAIRS)}"),
    )
    names = (chosen.only or ",".join(PAIRS)).split(",")
    if unknown := set(names) - set(PAIRS):
        print(f"--only: wanted some of {', '.join(PAIRS)}, got {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    random = np.random.default_rng(0)
    size, repeats = (1_000_000, 5) if chosen.quick else (25_000_000, 5)
    # Of growing length, so that Krum's choice does not hang on rounding.
    updates = [random.standard_normal(size, dtype=np.float32) * np.float32(1 + i / UPDATES) for i in range(UPDATES)]
    gc.freeze()  # Flower collects garbage for every array: a third of a second each in a process that holds torch
    write(measure(names, updates, repeats, lambda one: print(told(one), flush=True)), chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
