"""Forward and backward passes of dense stacks without autograd, for speed."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from privacy._composition import Composition, check_input, rows_of

_BACKWARD: Final[dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor] | None]] = {
    nn.Identity: None,
    nn.Tanh: torch.ops.aten.tanh_backward,
    nn.Sigmoid: torch.ops.aten.sigmoid_backward,
    nn.ReLU: lambda delta, output: torch.ops.aten.threshold_backward(delta, output, 0),
}


class Seen(NamedTuple):
    """What one dense layer saw of a pass: its input (n, ..., f) and the gradient of its output (n, ..., h)."""

    inputs: Tensor
    delta: Tensor


class DenseStack:
    """Dense layers with activations between them, and whatever follows the last one.

    Parameters
    ----------
    table : the name of the table that the first layer takes, or None where the input is a tensor.
    stack : layers and activations in their order, the last one dense.
    tail : steps after the stack.
    """

    def __init__(self, table: str | None, stack: list[nn.Module], tail: Callable[[Tensor], Tensor]) -> None:
        self.table, self.stack, self.tail = table, stack, tail
        self.layers = [layer for layer in stack if isinstance(layer, nn.Linear)]
        trained = [place for place, layer in enumerate(stack) if any(p.requires_grad for p in layer.parameters())]
        self._lowest = min(trained, default=len(stack))

    def run(self, inputs: Any, losses: Callable[[Tensor], Tensor]) -> list[Seen]:
        """Return what each dense layer saw, from the lowest one that is trained on.

        Parameters
        ----------
        losses : what the stack's tail gives, made losses (n_rows,).
        """
        with torch.no_grad():
            value: Tensor = inputs if self.table is None else inputs[self.table]
            before: list[Tensor] = []
            rows = rows_of(inputs)
            for layer in self.stack:
                check_input(layer, value, rows)
                before.append(value)
                value = functional.linear(value, layer.weight, layer.bias) if type(layer) is nn.Linear else layer(value)
        with torch.enable_grad():
            last = value.detach().requires_grad_()
            found = losses(self.tail(last))
            (delta,) = torch.autograd.grad(found, last, torch.ones_like(found))
        seen: list[Seen] = []
        with torch.no_grad():
            for place in range(len(self.stack) - 1, self._lowest - 1, -1):
                layer = self.stack[place]
                if isinstance(layer, nn.Linear):
                    seen.append(Seen(before[place], delta))
                    if place > self._lowest:
                        delta = delta @ layer.weight
                elif (backward := _BACKWARD[type(layer)]) is not None:
                    delta = backward(delta, before[place + 1])
        return seen[::-1]


def dense_stack(steps: Composition) -> DenseStack | None:
    """Return the stack that `steps` are, or None where they are something else."""
    calls = steps.calls
    first = 1 if calls and not isinstance(calls[0].call, nn.Module) and calls[0].rest else 0
    table = calls[0].rest[0] if first else None
    if first and not isinstance(table, str):
        return None
    dense = [place for place, step in enumerate(calls) if isinstance(step.call, nn.Linear)]
    if not dense or any(any(True for _ in step.call.parameters()) for step in _layers(calls, dense[-1] + 1)):
        return None
    stack: list[nn.Module] = []
    for place in range(first, dense[-1] + 1):
        layer = calls[place].call
        if calls[place].arguments != (place,) or type(layer) not in (nn.Linear, *_BACKWARD):
            return None
        stack.append(layer)  # type: ignore[arg-type]
    after = calls[dense[-1] + 1 :]
    if any(argument <= dense[-1] for step in after for argument in step.arguments):
        return None

    def tail(value: Tensor) -> Tensor:
        results = {dense[-1] + 1: value}
        for place, step in enumerate(after, dense[-1] + 2):
            results[place] = step.run([results[argument] for argument in step.arguments], value.shape[0])
        return results[dense[-1] + 1 + len(after)]

    return DenseStack(table, stack, tail)


def _layers(calls: Any, start: int) -> list[Any]:
    return [step for step in calls[start:] if isinstance(step.call, nn.Module)]
