"""Aggregation arithmetic: pure functions on named tensors, without Flower.

A state is a mapping from parameter names to tensors. An algorithm that picks updates runs in float64: in float32
rounding would decide when updates are close. Results have the dtype of the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from strategies.streaming import weighted_average

if TYPE_CHECKING:
    from torch import Tensor

State = Mapping[str, "Tensor"]


def capped_weights(sizes: Sequence[float], cap: float) -> list[float]:
    """Return weights proportional to `sizes`, summing to one, none above `cap`.

    What a capped participant loses goes to the others in proportion. With fewer than 1/cap participants a
    cap cannot hold; the weights are then equal.

    Raises
    ------
    ValueError
        When a size is not finite and positive, or cap is outside (0, 1].
    """
    if not 0 < cap <= 1:
        raise ValueError(f"cap: wanted 0 < cap <= 1, got {cap}")
    if not sizes or any(not (0 < size < float("inf")) for size in sizes):
        raise ValueError("sizes: wanted finite numbers > 0, one per participant")
    if len(sizes) * cap <= 1:
        return [1 / len(sizes)] * len(sizes)
    capped: set[int] = set()
    while True:
        free = sum(size for index, size in enumerate(sizes) if index not in capped)
        share = 1 - cap * len(capped)
        weights = [cap if i in capped else share * size / free for i, size in enumerate(sizes)]
        over = {i for i, weight in enumerate(weights) if weight > cap * (1 + 1e-12)} - capped
        if not over:
            return weights
        capped |= over


def weighted_mean(states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted mean by name.

    Integer buffers are averaged and rounded to the nearest integer (ties to even), boolean ones decided by
    weighted majority; both keep their dtype.

    Raises
    ------
    ValueError
        When there is nothing to average, or names or shapes differ.
    """
    import torch

    if not states or len(states) != len(weights):
        raise ValueError(f"states: wanted one weight per state, got {len(states)} and {len(weights)}")
    total = float(sum(weights))
    if not 0 < total < float("inf"):
        raise ValueError(f"weights: wanted a finite sum > 0, got {total}")
    names = set(states[0])
    if any(set(state) != names for state in states):
        raise ValueError("states: wanted the same parameter names everywhere")
    out: dict[str, Tensor] = {}
    for name in states[0]:
        first = states[0][name]
        if any(state[name].shape != first.shape for state in states):
            raise ValueError(f"{name}: wanted one shape everywhere")
        values = [state[name] for state in states]
        whole = first.dtype != torch.bool and not first.dtype.is_floating_point
        # Integers are averaged as distances from the smallest: float64 itself holds none above 2^53.
        base = torch.stack(values).min(dim=0).values.to(torch.int64) if whole else None
        if base is not None:
            values = [value.to(torch.int64) - base for value in values]
        kept = first.dtype if first.dtype.is_floating_point else torch.float64
        mean = weighted_average(values, weights, kept)
        if base is not None:
            out[name] = (base + mean.round().to(torch.int64)).to(first.dtype)
        else:
            out[name] = mean > 0.5 if first.dtype == torch.bool else mean
    return out


def step(current: State, direction: State, rate: float) -> dict[str, Tensor]:
    """Return current - rate x direction for floating parameters; integer and boolean ones take `direction`."""
    import torch

    return {
        name: (
            (tensor.to(torch.float64) - rate * direction[name].to(torch.float64)).to(tensor.dtype)
            if tensor.is_floating_point()
            else direction[name].clone()
        )
        for name, tensor in current.items()
    }


def difference(left: State, right: State) -> dict[str, Tensor]:
    """Return left - right in float64 for floating parameters; others are taken from `right`."""
    import torch

    return {
        name: (
            tensor.to(torch.float64) - right[name].to(torch.float64)
            if tensor.is_floating_point()
            else right[name].clone()
        )
        for name, tensor in left.items()
    }


def mean_change(current: State, states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted mean of states - current in float64 for floating parameters, that of the states for others.

    Not mean - current: replies that changed nothing give an exact zero here, where the rounding of a mean would
    be a full step of an optimizer that looks at signs only.
    """
    return weighted_mean([difference(state, current) for state in states], weights) | {
        name: tensor for name, tensor in weighted_mean(states, weights).items() if not current[name].is_floating_point()
    }
