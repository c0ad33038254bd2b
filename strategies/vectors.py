"""Updates as float64 vectors centred on the previous model.

Distances between parameters themselves lose their digits where parameters are large and changes small; the
changes are compared instead. Integer and boolean buffers are no coordinates: robust algorithms take their
(lower) median, an exact vote in which a minority moves nothing beyond the honest values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from strategies.arithmetic import State, weighted_mean
from strategies.streaming import by_order

if TYPE_CHECKING:
    from torch import Tensor


def float_names(state: State) -> list[str]:
    """Return the names of the floating parameters, sorted."""
    return sorted(name for name, tensor in state.items() if tensor.is_floating_point())


def centred(current: State, states: Sequence[State]) -> Tensor:
    """Return the changes, float64 (n_updates, n_coordinates).

    Raises
    ------
    ValueError
        When names or shapes differ from the current ones.
    """
    import torch

    check_same(current, states)
    names = float_names(current)
    empty = [torch.zeros(0, dtype=torch.float64)]
    return torch.stack(
        [torch.cat([(s[n].double() - current[n].double()).flatten() for n in names] or empty) for s in states]
    )


def moved(current: State, change: Tensor, states: Sequence[State]) -> dict[str, Tensor]:
    """Return current + change for floating parameters and the lower median of the others."""
    out: dict[str, Tensor] = {}
    start = 0
    places = {}
    for name in float_names(current):
        places[name] = start
        start += current[name].numel()
    for name, tensor in current.items():
        if name in places:
            part = change[places[name] : places[name] + tensor.numel()].reshape(tensor.shape)
            out[name] = (tensor.double() + part).to(tensor.dtype)
        else:
            out[name] = lower_median([state[name] for state in states])
    return out


def lower_median(values: Sequence[Tensor]) -> Tensor:
    """Return the lower median of integer or boolean tensors, in their dtype, without a detour over floats."""
    import torch

    stacked = torch.stack(list(values))
    as_integer = stacked.to(torch.uint8) if stacked.dtype == torch.bool else stacked
    return as_integer.sort(dim=0).values[(len(values) - 1) // 2].to(stacked.dtype)


def by_coordinate(
    current: State, states: Sequence[State], reduce: Callable[[Sequence[Tensor]], Tensor]
) -> dict[str, Tensor]:
    """Return `reduce` of the sorted values of each coordinate (`streaming.by_order`), the lower median of buffers."""
    check_same(current, states)
    out: dict[str, Tensor] = {}
    for name, tensor in current.items():
        values = [state[name] for state in states]
        floating = tensor.is_floating_point()
        out[name] = by_order(values, reduce).to(tensor.dtype) if floating else lower_median(values)
    return out


def mean_and_votes(states: Sequence[State]) -> dict[str, Tensor]:
    """Return the mean of floating parameters and the lower median of the others."""
    return weighted_mean(states, [1.0] * len(states)) | {
        name: lower_median([state[name] for state in states])
        for name, tensor in states[0].items()
        if not tensor.is_floating_point()
    }


def check_same(current: State, states: Sequence[State]) -> None:
    """Raise ValueError unless there are states and all have the names and shapes of `current`."""
    if not states:
        raise ValueError("updates: wanted at least one, got none")
    for state in states:
        if set(state) != set(current):
            raise ValueError("states: wanted the same parameter names everywhere")
        for name, tensor in current.items():
            if state[name].shape != tensor.shape:
                raise ValueError(f"{name}: wanted one shape everywhere")
