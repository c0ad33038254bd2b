"""Derivatives of losses that are known, in place, without autograd.

A loss is traced (torch.fx), and what was traced is what trains. The logistic loss and the squared error of one output
are known, by whatever names and arithmetic with numbers they were written; any other is derived by autograd.
"""

import operator
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, fx
from torch.nn import functional

from privacy._composition import traced
from privacy._rows import Loss

#: (outputs (1, n_rows), target (n_rows,)): the derivatives of each row's loss take the place of the outputs.
Rule = Callable[[Tensor, Tensor], Any]
_ARITHMETIC: Final[dict[Any, Callable[..., Any]]] = {
    **dict.fromkeys((operator.add, torch.add), operator.add),
    **dict.fromkeys((operator.sub, torch.sub), operator.sub),
    **dict.fromkeys((operator.mul, torch.mul), operator.mul),
    **dict.fromkeys((operator.truediv, torch.div), operator.truediv),
}


def rule_of(loss: Loss) -> Rule | None:
    """Return the derivative of a loss of one output a row, or None where the loss is not known."""
    try:
        nodes = list(traced(loss).nodes)
    except Exception:  # noqa: BLE001 (whatever somebody's own loss raises on a symbol: then it is not known)
        return None
    places = [node for node in nodes if node.op == "placeholder"]
    if len(places) != 2 or not isinstance(found := nodes[-1].args[0], fx.Node):
        return None
    return _Known(*places).rule(found)


class _Known:
    def __init__(self, output: fx.Node, target: fx.Node) -> None:
        self.output, self.target = output, target

    def rule(self, found: fx.Node) -> Rule | None:
        if found.target is functional.binary_cross_entropy_with_logits and len(found.args) == 2:
            wanted = self._wanted(found.args[1])
            given = {name: value for name, value in found.kwargs.items() if value is not None}
            if wanted is None or given != {"reduction": "none"} or not self._column(found.args[0]):
                return None
            of_target = wanted
            return lambda z, y: z.sigmoid_().sub_(_number(of_target(y, z.dtype)))
        factor = 2.0
        while _ARITHMETIC.get(found.target) is operator.mul and len(found.args) == 2 and not found.kwargs:
            numbers = [one for one in found.args if type(one) in {int, float}]
            nodes = [one for one in found.args if isinstance(one, fx.Node)]
            if len(numbers) != 1 or len(nodes) != 1:
                return None
            factor, found = factor * float(numbers[0]), nodes[0]  # type: ignore[arg-type]
        if found.target not in {operator.pow, torch.pow, "pow"} or tuple(found.args[1:]) != (2,) or found.kwargs:
            return None
        away = found.args[0]
        if not isinstance(away, fx.Node) or _ARITHMETIC.get(away.target) is not operator.sub or away.kwargs:
            return None
        wanted = self._wanted(away.args[1])
        if wanted is None or not self._column(away.args[0]):
            return None
        return lambda z, y: z.sub_(_number(wanted(y, z.dtype))).mul_(factor)

    def _column(self, node: Any) -> bool:
        """Whether `node` is the only output of each row."""
        if not isinstance(node, fx.Node) or not node.args or node.args[0] is not self.output or node.kwargs:
            return False
        if node.target in {"squeeze", torch.squeeze}:
            return node.args[1:] in {(-1,), (1,)}
        return node.target is operator.getitem and node.args[1] == (slice(None), 0)

    def _wanted(self, node: Any) -> Callable[[Tensor, torch.dtype], Tensor] | None:
        """Return how a row's target is made of its number and the type of outputs, if by numbers alone."""
        if node is self.target:
            return lambda y, _: y
        if not isinstance(node, fx.Node) or len(node.args) != 2 or node.kwargs:
            return None
        before, number = self._wanted(node.args[0]), node.args[1]
        if before is None:
            return None
        if node.op == "call_method" and node.target == "to" and self._type(number):
            return lambda y, kind: before(y, kind).to(kind)
        act = _ARITHMETIC.get(node.target)
        if act is None or type(number) not in {int, float}:
            return None
        return lambda y, kind: act(before(y, kind), number)

    def _type(self, node: Any) -> bool:
        return isinstance(node, fx.Node) and node.target is getattr and node.args == (self.output, "dtype")


def _number(target: Tensor) -> Tensor:
    """Return the same values; what is true or false is no number, and subtraction refuses it."""
    return target.byte() if target.dtype == torch.bool else target
