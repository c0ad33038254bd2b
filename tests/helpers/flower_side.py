"""Flower's own strategies on given replies: no grid is needed for the arithmetic."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict


def reply(values: dict[str, np.ndarray], size: float = 1, **metrics: float) -> SimpleNamespace:
    """What Flower's strategies ask of a message; a real one needs a running task."""
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(value) for name, value in values.items()}),
            "metrics": MetricRecord({"num-examples": size, **metrics}),
        },
    )
    return SimpleNamespace(content=content, has_error=lambda: False, metadata=SimpleNamespace(src_node_id=1))


def aggregated(
    strategy: Any, current: dict[str, np.ndarray], replies: Sequence[SimpleNamespace], number: int = 1
) -> dict[str, np.ndarray]:
    """Return Flower's next parameters; `current` is what some of its strategies remember of the round."""
    arrays = {name: Array(value.copy()) for name, value in current.items()}
    strategy.current_arrays = {n: v.copy() for n, v in current.items()}
    if type(strategy).__name__ == "QFedAvg":
        strategy.current_arrays = ArrayRecord(arrays)
    gc.freeze()  # Flower collects garbage for every array: a third of a second each in a process that holds torch
    try:
        out, _ = strategy.aggregate_train(number, list(replies))
    finally:
        gc.unfreeze()
    return {name: out[name].numpy() for name in current}
