"""Forward and backward passes of dense stacks without autograd, for speed."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from privacy._composition import Composition, check_input, rows_of
from privacy._layer import Memory

#: Activation -> itself in place, and its backward pass from its output: (delta, output, out).
_ACTIVATIONS: Final[dict[type[nn.Module], tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]]]] = {
    nn.Tanh: (torch.tanh_, lambda d, y, out: torch.ops.aten.tanh_backward.grad_input(d, y, grad_input=out)),
    nn.Sigmoid: (torch.sigmoid_, lambda d, y, out: torch.ops.aten.sigmoid_backward.grad_input(d, y, grad_input=out)),
    nn.ReLU: (torch.relu_, lambda d, y, out: torch.ops.aten.threshold_backward.grad_input(d, y, 0, grad_input=out)),
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

    def run(self, inputs: Any, losses: Callable[[Tensor], Tensor], memory: Memory) -> list[Seen]:
        """Return what each dense layer saw, from the lowest one that is trained on.

        Parameters
        ----------
        losses : what the stack's tail gives, made losses (n_rows,).
        memory : where the results lie until the next pass with it.
        """
        with torch.no_grad():
            value: Tensor = inputs if self.table is None else inputs[self.table]
            before: list[Tensor] = []
            rows = rows_of(inputs)
            for place, layer in enumerate(self.stack):
                check_input(layer, value, rows)
                before.append(value)
                if isinstance(layer, nn.Linear):
                    value = _forward(layer, value, memory, place)
                elif (own := _ACTIVATIONS.get(type(layer))) and place and isinstance(self.stack[place - 1], nn.Linear):
                    value = own[0](value)  # nothing else needs the dense layer's own output
                else:
                    value = layer(value)
        with torch.enable_grad():
            last = value.detach().requires_grad_()
            found = losses(self.tail(last))
            # Of the sum: autograd loads sympy (half a second of CPU) to compare the shape of a gradient it is given.
            (delta,) = torch.autograd.grad(found.sum(), last)
        seen: list[Seen] = []
        with torch.no_grad():
            for place in range(len(self.stack) - 1, self._lowest - 1, -1):
                layer = self.stack[place]
                if isinstance(layer, nn.Linear):
                    seen.append(Seen(before[place], delta))
                    if place > self._lowest:
                        delta = _backward(layer, delta, memory, place)
                elif (own := _ACTIVATIONS.get(type(layer))) is not None:
                    delta = own[1](delta, before[place + 1], delta)
        return seen[::-1]


def _forward(layer: nn.Linear, value: Tensor, memory: Memory, place: int) -> Tensor:
    if value.dim() != 2 or layer.bias is None:
        return functional.linear(value, layer.weight, layer.bias)
    out = memory.like(("output", place), (value.shape[0], layer.out_features), layer.weight)
    return torch.addmm(layer.bias, value, layer.weight.t(), out=out)


def _backward(layer: nn.Linear, delta: Tensor, memory: Memory, place: int) -> Tensor:
    if delta.dim() != 2:
        return delta @ layer.weight
    return torch.mm(delta, layer.weight, out=memory.like(("delta", place), (delta.shape[0], layer.in_features), delta))


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
        if calls[place].arguments != (place,) or type(layer) not in (nn.Linear, nn.Identity, *_ACTIVATIONS):
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
