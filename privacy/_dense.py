"""Stacks of dense layers, passed without autograd: both passes, the norms and the sum by hand, into kept buffers.

Rows lie last in every buffer, (width, n_rows): what all layers saw is then one block, so that one call squares it and
one product with a matrix of zeros and ones adds each layer's squares. At some thousand parameters a step is as long as
the list of its calls. Matrix kernels give each row there the same bits at every place more often, too.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from privacy._composition import Composition
from privacy._losses import Rule, rule_of
from privacy._one_row import same_bits
from privacy._rows import Loss, checked

#: Activation -> itself in place, and its backward pass from its output: (delta, output, out).
_ACTIVATIONS: Final[dict[type[nn.Module], tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]]]] = {
    nn.Tanh: (torch.tanh_, lambda d, y, out: torch.ops.aten.tanh_backward.grad_input(d, y, grad_input=out)),
    nn.Sigmoid: (torch.sigmoid_, lambda d, y, out: torch.ops.aten.sigmoid_backward.grad_input(d, y, grad_input=out)),
    nn.ReLU: (torch.relu_, lambda d, y, out: torch.ops.aten.threshold_backward.grad_input(d, y, 0, grad_input=out)),
}


class Dense(NamedTuple):
    """One layer of a stack and the activation that follows it, if any."""

    layer: nn.Linear
    activation: type[nn.Module] | None


class DenseStack:
    """Dense layers with activations between them, and whatever follows the last one.

    Parameters
    ----------
    table : the name of the table that the first layer takes, or None where the input is a tensor.
    stack : the layers in their order. From the lowest one that is trained on, all parameters are trained.
    tail : steps after the stack, or None where there are none.
    """

    def __init__(self, table: str | None, stack: list[Dense], tail: Callable[[Tensor], Tensor] | None) -> None:
        self.table, self.tail = table, tail
        self.layers = [one.layer for one in stack]
        self.activations = [_ACTIVATIONS[one.activation] if one.activation else None for one in stack]
        self.lowest = next(place for place, layer in enumerate(self.layers) if layer.weight.requires_grad)
        self.kind = self.layers[0].weight.dtype
        self._passes: dict[int, Pass] = {}
        self._rule: tuple[Loss | None, Rule | None] = (None, None)

    def takes(self, inputs: Mapping[str, Tensor]) -> bool:
        """Whether the stack's input has the form (n_rows, width) that the buffers are for."""
        value: Any = inputs if self.table is None else inputs[self.table]
        if not isinstance(value, Tensor) or value.dim() != 2 or value.device.type != "cpu":
            return False
        return value.dtype == self.kind and value.shape[1] == self.layers[0].in_features

    def run(self, inputs: Any, target: Tensor, loss: Loss) -> "Pass":
        """Pass `target`'s rows forward and backward; what is returned is written again by the next pass of as many."""
        rows = target.shape[0]
        one = self._passes.get(rows)
        if one is None:
            one = self._passes[rows] = Pass(self, rows)
        if self._rule[0] is not loss:
            plain = self.tail is None and self.layers[-1].out_features == 1
            self._rule = (loss, rule_of(loss) if plain else None)
        one.run(inputs if self.table is None else inputs[self.table], target, loss, self._rule[1])
        return one

    def steady(self, rows: int) -> bool:
        """Whether the products of each layer with random numbers give each row the same bits at another place.

        Layers by themselves: what stands before or behind one may send it zeros for made-up rows.
        """
        generator = torch.Generator().manual_seed(0)

        def numbers(width: int) -> Tensor:
            return torch.randn((rows, width), generator=generator).to(self.kind)

        def both(layer: nn.Linear, tables: dict[str, Tensor]) -> list[Tensor]:
            forward = layer.weight @ tables["inputs"].t(), layer.weight @ tables["inputs"].t().contiguous()
            return [*(one.t() for one in forward), (layer.weight.t() @ tables["delta"].t().contiguous()).t()]

        with torch.no_grad():
            return all(
                same_bits(
                    lambda tables, layer=layer: both(layer, tables),  # type: ignore[misc]
                    {"inputs": numbers(layer.in_features), "delta": numbers(layer.out_features)},
                )
                for layer in self.layers
            )


class Pass:
    """The buffers of passes with one number of rows.

    Attributes
    ----------
    norms : (n_rows,), after `measure` the norm of each row's gradient.
    factors : (n_rows,), what `add` multiplies each row's gradient by.
    """

    def __init__(self, stack: DenseStack, rows: int) -> None:
        self._stack, layers, lowest = stack, stack.layers, stack.lowest
        kind = layers[0].weight.detach()
        widths = [layer.out_features for layer in layers]
        self._hidden = kind.new_empty(sum(widths[:-1]), rows)
        self._deltas = kind.new_empty(sum(widths[lowest:]), rows)
        self._outputs: tuple[Tensor, ...] = torch.split(self._hidden, widths[:-1]) if len(layers) > 1 else ()
        self._outputs_turned = [output.t() for output in self._outputs]
        self._deltas_of = torch.split(self._deltas, widths[lowest:])
        self.norms, self.factors = kind.new_empty(2, rows)
        self._inputs = self._input_squares = kind.new_empty(rows, layers[0].in_features)
        self._hidden_squares, self._delta_squares = torch.empty_like(self._hidden), torch.empty_like(self._deltas)
        # `tiny`: what squares lose by underflow is put back, so that no product hides behind a norm of zero.
        tiny = torch.finfo(kind.dtype).tiny * 2.0**24
        trained = layers[lowest:]
        of_inputs = [tiny * layer.in_features + (layer.bias is not None) for layer in trained]
        of_deltas = [tiny * layer.out_features for layer in trained]
        self._of_inputs, self._of_deltas = kind.new_tensor([of_inputs, of_deltas]).unsqueeze(2)
        self._input_sums, self._delta_sums = kind.new_empty(2, len(trained), rows)
        first = 1 if lowest == 0 else 0  # the input's squares are not among the hidden ones
        self._first = self._input_sums[0], self._of_inputs[0].expand(rows), kind.new_ones(layers[0].in_features)
        self._later = self._input_sums[first:], self._of_inputs[first:]
        self._hidden_parts = _parts(widths[:-1], kind)[max(0, lowest - 1) :]
        self._delta_parts = _parts(widths[lowest:], kind)
        self._parameters = [p for layer in layers for p in (layer.weight, layer.bias) if p is not None]
        self._bind()

    def _bind(self) -> None:
        """Take the views of parameters that products want; again whenever an optimizer gave them other memory."""
        layers = self._stack.layers
        self._addresses = [p.data_ptr() for p in self._parameters]
        self._weights = [layer.weight.detach() for layer in layers]
        self._turned = [weight.t() for weight in self._weights]
        self._biases: list[Tensor | None] = [
            None if layer.bias is None else layer.bias.detach().unsqueeze(1) for layer in layers
        ]

    def run(self, inputs: Tensor, target: Tensor, loss: Loss, rule: Rule | None) -> None:
        """Fill the buffers: forward, the loss's derivative (by `rule`, or autograd's where there is none), backward."""
        if [p.data_ptr() for p in self._parameters] != self._addresses:
            self._bind()
        self._inputs, value = inputs, inputs.t()
        lowest, activations = self._stack.lowest, self._stack.activations
        outputs = (*self._outputs, self._deltas_of[-1])
        for weight, bias, activation, out in zip(self._weights, self._biases, activations, outputs, strict=True):
            if bias is None:
                torch.mm(weight, value, out=out)
            else:
                torch.addmm(bias, weight, value, out=out)
            value = out if activation is None else activation[0](out)
        if rule is None or target.dim() != 1:
            self._derive(value, target, loss)
        else:
            rule(value, target)
        for place in range(len(self._weights) - 1, lowest, -1):
            out = self._deltas_of[place - 1 - lowest]
            torch.mm(self._turned[place], self._deltas_of[place - lowest], out=out)
            if (activation := activations[place - 1]) is not None:
                activation[1](out, self._outputs[place - 1], out)

    def _derive(self, value: Tensor, target: Tensor, loss: Loss) -> None:
        tail = self._stack.tail
        with torch.enable_grad():
            last = value.t().contiguous().requires_grad_()
            found = checked(loss(last if tail is None else tail(last), target), target)
            # Of the sum: autograd loads sympy (half a second of CPU) to compare the shape of a gradient it is given.
            (delta,) = torch.autograd.grad(found.sum(), last)
        value.copy_(delta.t())

    def seen(self) -> list[tuple[Tensor, Tensor]]:
        """Return, of each trained layer, its inputs (n_rows, f) and the gradients of its outputs (n_rows, h)."""
        inputs = (self._inputs, *self._outputs_turned)[self._stack.lowest :]
        return list(zip(inputs, (delta.t() for delta in self._deltas_of), strict=True))

    def measure(self) -> Tensor:
        """Return `norms`: over all layers |d|^2 (|a|^2 + 1)."""
        torch.mul(self._deltas, self._deltas, out=self._delta_squares)
        torch.addmm(self._of_deltas, self._delta_parts, self._delta_squares, out=self._delta_sums)
        if self._stack.lowest == 0:
            out, constant, ones = self._first
            torch.mul(self._inputs, self._inputs, out=self._input_squares)
            torch.addmv(constant, self._input_squares, ones, out=out)
        if len(self._hidden_parts):
            sums, constants = self._later
            torch.mul(self._hidden, self._hidden, out=self._hidden_squares)
            torch.addmm(constants, self._hidden_parts, self._hidden_squares, out=sums)
        torch.sum(self._delta_sums.mul_(self._input_sums), 0, out=self.norms)
        norms: Tensor = self.norms.sqrt_()
        return norms

    def mute(self) -> None:
        """Take rows out of the sum: those whose norm is not finite."""
        broken = ~self.norms.isfinite()
        self._inputs = self._inputs.masked_fill(broken.unsqueeze(1), 0)
        for each in (self._hidden, self._deltas, self.norms):
            each.masked_fill_(broken, 0)

    def add(self, sums: list[tuple[Tensor, Tensor | None]], beta: float) -> None:
        """Make each trained layer's `sums` ``beta x sums + sum_r factors[r] x gradient[r]``."""
        seen = (self._inputs, *self._outputs_turned)[self._stack.lowest :]
        for (_, bias), delta in zip(sums, self._deltas_of, strict=True):
            if bias is not None:
                bias.addmv_(delta, self.factors, beta=beta)
        self._deltas.mul_(self.factors)
        for (weight, _), delta, inputs in zip(sums, self._deltas_of, seen, strict=True):
            weight.addmm_(delta, inputs, beta=beta)


def _parts(widths: list[int], kind: Tensor) -> Tensor:
    """Return (len(widths), sum(widths)): ones where a layer's numbers lie, so that a product adds each layer's."""
    parts = kind.new_zeros(len(widths), sum(widths))
    start = 0
    for place, width in enumerate(widths):
        parts[place, start : start + width] = 1
        start += width
    return parts


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
    stack: list[Dense] = []
    for place in range(first, dense[-1] + 1):
        layer = calls[place].call
        if calls[place].arguments != (place,):
            return None
        if isinstance(layer, nn.Linear):
            stack.append(Dense(layer, None))
        elif type(layer) in _ACTIVATIONS and stack and stack[-1].activation is None:
            stack[-1] = Dense(stack[-1].layer, type(layer))  # type: ignore[arg-type]
        elif type(layer) is not nn.Identity:
            return None
    after = calls[dense[-1] + 1 :]
    if any(argument <= dense[-1] for step in after for argument in step.arguments) or not _all_trained(stack):
        return None

    def tail(value: Tensor) -> Tensor:
        results = {dense[-1] + 1: value}
        for place, step in enumerate(after, dense[-1] + 2):
            results[place] = step.run([results[argument] for argument in step.arguments], value.shape[0])
        return results[dense[-1] + 1 + len(after)]

    idle = all(type(step.call) is nn.Identity for step in after)
    return DenseStack(table, stack, None if idle else tail)


def _all_trained(stack: list[Dense]) -> bool:
    """Whether frozen layers, if any, come first, and no layer is frozen in part; the others are of one type."""
    trained = [{p.requires_grad for p in one.layer.parameters()} for one in stack]
    kinds = {p.dtype for one in stack for p in one.layer.parameters()}
    return (
        trained[-1] == {True}
        and trained == sorted(trained, key=lambda found: found == {True})
        and all(len(found) == 1 for found in trained)
        and len(kinds) == 1
    )


def _layers(calls: Any, start: int) -> list[Any]:
    return [step for step in calls[start:] if isinstance(step.call, nn.Module)]
