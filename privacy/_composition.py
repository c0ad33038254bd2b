"""Recognises modules that treat each row by itself: known layers in known compositions.

A module is traced (torch.fx) into a list of steps, and these *steps* are what trains, so that what was looked at is
what runs. A list is known when each step maps every row by itself. Anything else trains as a function of one row
(`privacy._one_row`), so that rows cannot mix whatever the module does.
"""

import copy
import operator
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from privacy.errors import PlanError

#: Layers with parameters and the number of dimensions that their input must have: with fewer, torch takes the rows
#: for channels or positions. None: any number above that of `normalized_shape`, or above one.
_DIMENSIONS: Final[dict[type[nn.Module], int | None]] = {
    nn.Linear: None,
    nn.Conv1d: 3,
    nn.Conv2d: 4,
    nn.Conv3d: 5,
    nn.LayerNorm: None,
    nn.GroupNorm: None,
    nn.RMSNorm: None,
    nn.Embedding: None,
}
_FREE: Final = (
    *(nn.Identity, nn.Tanh, nn.Sigmoid, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Tanhshrink),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d),
)
_DROPOUTS: Final = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_FUNCTIONS: Final[frozenset[Callable[..., Any]]] = frozenset(
    (torch.tanh, torch.sigmoid, torch.relu, functional.relu, functional.gelu, functional.silu, functional.elu)
)


def _alike(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def both(first: Tensor, second: Tensor) -> Tensor:
        # Broadcasting (n, 1) and (n,) would give each row all others; with rows first in both, it stays in a row.
        if first.dim() != second.dim() or first.shape[0] != second.shape[0]:
            raise PlanError("module: wanted two tensors of one shape in a sum or product, got two; give them one shape")
        return operation(first, second)

    return both


_TWO_ROWS: Final[dict[Any, Callable[..., Any]]] = {
    **dict.fromkeys((operator.add, torch.add), _alike(torch.add)),
    **dict.fromkeys((operator.sub, torch.sub), _alike(torch.sub)),
    **dict.fromkeys((operator.mul, torch.mul), _alike(torch.mul)),
}


#: Methods that change each number by itself, or the form of every row.
_PARTS: Final[dict[str, Callable[..., Any]]] = {
    "long": Tensor.long,
    "clamp": torch.clamp,
    "unsqueeze": torch.unsqueeze,
}
#: What a tensor and a number make, number by number.
_WITH_NUMBER: Final[dict[Any, Callable[..., Any]]] = {
    **dict.fromkeys((operator.add, torch.add), operator.add),
    **dict.fromkeys((operator.sub, torch.sub), operator.sub),
    **dict.fromkeys((operator.mul, torch.mul), operator.mul),
}


def _side_by_side(*tensors: Tensor, dim: int) -> Tensor:
    if len({tensor.shape[0] for tensor in tensors}) > 1:
        raise PlanError("module: wanted tensors with the rows first in torch.cat, got others; leave the rows alone")
    return torch.cat(tensors, dim)


_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS: Final = (
    *("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks"),
)


#: torch.fx replaces methods of all modules while it traces; two at a time would put back what the other had replaced.
_TRACING = threading.Lock()


class _Tracer(fx.Tracer):
    """Stops at every module of torch but its containers, and leaves alone what other threads call meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Note the call of a module of this trace; go on with any other."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Note that a parameter was read in this trace; give any other as it is."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        del module_qualified_name
        return type(m).__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential)


class Step(NamedTuple):
    """One step.

    Attributes
    ----------
    call : a function or a layer; a layer's name before the steps are bound to a module.
    arguments : places of its tensors among the results so far, of which the input is the first.
    rest, options : its other arguments.
    """

    call: str | Callable[..., Any]
    arguments: tuple[int, ...]
    rest: tuple[Any, ...]
    options: dict[str, Any]

    def run(self, tensors: list[Any], rows: int) -> Any:
        """Call it; refuse an input in which a layer would take the `rows` rows for something else."""
        if isinstance(self.call, nn.Module):
            check_input(self.call, tensors[0], rows)
        return self.call(*tensors, *self.rest, **self.options)  # type: ignore[operator]


class Composition(nn.Module):
    """The known steps of a module, run on its own layers.

    Attributes
    ----------
    calls : the steps, bound to the module's layers.
    layers : the layers that the steps call, in their order.
    """

    def __init__(self, root: nn.Module, steps: tuple[Step, ...]) -> None:
        super().__init__()
        modules = dict(root.named_modules())
        self._steps = steps
        called = [modules[step.call] for step in steps if isinstance(step.call, str)]
        self.layers = nn.ModuleList(dict.fromkeys(called))
        self.calls = [s._replace(call=modules[s.call]) if isinstance(s.call, str) else s for s in steps]

    @property
    def signature(self) -> str:
        """What the steps are, in words."""
        return str([(getattr(s.call, "__name__", s.call), *s[1:]) for s in self._steps])

    def inputs(self, inputs: Any) -> list[tuple[nn.Module, Tensor]]:
        """Return what each layer gets."""
        found: list[tuple[nn.Module, Tensor]] = []
        with torch.no_grad():
            self._run(inputs, found)
        return found

    def of(self, root: nn.Module) -> "Composition":
        """Return the same steps on the layers of a copy of the module."""
        return Composition(root, self._steps)

    def forward(self, inputs: Any) -> Tensor:
        """Run the steps."""
        return self._run(inputs, [])

    def _run(self, inputs: Any, seen: list[tuple[nn.Module, Tensor]]) -> Tensor:
        results = [inputs]
        rows = rows_of(inputs)
        for step in self.calls:
            tensors = [results[place] for place in step.arguments]
            if isinstance(step.call, nn.Module):
                seen.append((step.call, tensors[0]))
            results.append(step.run(tensors, rows))
        output: Tensor = results[-1]
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> "Composition":
        raise PlanError("a composition is bound to its module: copy that, and take `of` the copy")


def rows_of(inputs: Any) -> int:
    """Return the number of rows of named tables, or of one tensor."""
    tensor = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
    return int(tensor.shape[0])


def fresh_copy(module: nn.Module) -> nn.Module:
    """Return `module` as it is now, with the very trained parameters: what a pass writes elsewhere goes with it."""
    return copy.deepcopy(module, {id(p): p for p in module.parameters() if p.requires_grad})


def known(module: nn.Module) -> Composition | str:
    """Return the steps of `module` if they are known to treat each row by itself, else why they are not."""
    if any(getattr(nn.modules.module, key) for key in _GLOBAL_HOOKS):
        return "hooks on all modules are registered"
    for name, layer in module.named_modules():
        if any(vars(layer)[key] for key in _HOOKS) or layer._compiled_call_impl is not None:
            return f"{name}: has hooks of its own"
        if any(callable(value) for value in vars(layer).values()):
            return f"{name}: has functions of its own"
        if any(type(own) is not nn.Parameter for own in layer.parameters(recurse=False)):
            return f"{name}: has parameters of another type"
        if getattr(layer, "inplace", False):
            return f"{name}: works in place on a kept activation"
        if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse):
            return f"{name}: an embedding with max_norm, scale_grad_by_freq or sparse gradients"
        if type(layer) not in _DIMENSIONS and any(p.requires_grad for p in layer.parameters(recurse=False)):
            return f"{name}: no rule for {type(layer).__name__}"
    if reason := _shared(module):
        return reason
    if type(module) in _DIMENSIONS or type(module) in _FREE:
        return Composition(module, (Step("", (0,), (), {}),))
    try:
        # A copy, since an own forward may write symbols to buffers and attributes.
        graph = traced(fresh_copy(module))
    except Exception as error:  # noqa: BLE001 (whatever an own forward raises on a symbol: then it is not known)
        return f"its forward is not made of known layers alone ({type(error).__name__})"
    return _composed(module, graph)


def traced(called: nn.Module | Callable[..., Any]) -> fx.Graph:
    """Return what a module or a function does with symbols; raises what its code raises on them."""
    with _TRACING:
        return _Tracer().trace(called)


def _composed(module: nn.Module, graph: fx.Graph) -> Composition | str:
    modules = dict(module.named_modules())
    calls = Counter(modules[str(node.target)] for node in graph.nodes if node.op == "call_module")
    for layer, count in calls.items():
        if count > 1 and any(True for _ in layer.parameters()):
            return f"calls its {type(layer).__name__} {count} times"
    places: dict[fx.Node, int] = {}
    steps: list[Step] = []
    for node in graph.nodes:
        if node.op == "placeholder" and not places:
            places[node] = 0
            continue
        if node.op == "output":
            if not isinstance(node.args[0], fx.Node) or places[node.args[0]] != len(steps):
                return "its forward returns something else than its last step"
            return Composition(module, tuple(steps))
        if node.target is torch.cat:
            tensors, rest, options = _joined(node)
            call: str | Callable[..., Any] | None = _side_by_side if tensors else None
        else:
            tensors, options = [one for one in node.args if isinstance(one, fx.Node)], dict(node.kwargs)
            call, rest = _call(node, modules), node.args[len(tensors) :]
            call = call if tuple(node.args[: len(tensors)]) == tuple(tensors) else None
        if call is None or any(map(_holds_nodes, (*rest, options))):
            return f"its forward holds a step without a rule ({node.op} {node.target})"
        steps.append(Step(call, tuple(places[one] for one in tensors), tuple(rest), options))
        places[node] = len(steps)
    return "its forward returns nothing"


def _joined(node: fx.Node) -> tuple[list[fx.Node], tuple[Any, ...], dict[str, Any]]:
    """Return the tensors that `torch.cat` puts side by side in each row, and how; none where it does anything else."""
    given = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
    tensors, dim = given.pop("tensors", ()), given.pop("dim", 0)
    parts = list(tensors) if isinstance(tensors, list | tuple) else []
    if given or type(dim) is not int or dim < 1 or not all(isinstance(one, fx.Node) for one in parts):
        return [], (), {}
    return parts, (), {"dim": dim}


def _holds_nodes(value: Any) -> bool:
    found: list[fx.Node] = []

    def note(node: fx.Node) -> fx.Node:
        found.append(node)
        return node

    fx.node.map_arg(value, note)
    return bool(found)


def _shared(module: nn.Module) -> str | None:
    seen: set[int] = set()
    for name, layer in module.named_modules():
        own = [parameter for parameter in layer.parameters(recurse=False) if parameter.requires_grad]
        if any(id(parameter) in seen for parameter in own):
            return f"{name}: shares a parameter with another layer"
        seen |= {id(parameter) for parameter in own}
    return None


def _call(node: fx.Node, modules: dict[str, nn.Module]) -> str | Callable[..., Any] | None:
    """Return what a step calls, or None unless it maps each row by itself, given inputs (n_rows, ...)."""
    if node.op == "call_module":
        layer = modules[str(node.target)]
        free = type(layer) in _DIMENSIONS or type(layer) in _FREE
        free = free or (type(layer) is nn.Flatten and layer.start_dim == 1)
        free = free or (type(layer) is nn.Unflatten and layer.dim == 1)
        free = free or (type(layer) in _DROPOUTS and getattr(layer, "p", 1) == 0)
        return str(node.target) if free and len(node.args) == 1 and not node.kwargs else None
    constants = [one for one in (*node.args, *node.kwargs.values()) if not isinstance(one, fx.Node)]
    others = len(node.args) + len(node.kwargs) - 1
    if node.target in _TWO_ROWS:
        if len(node.args) != 2 or node.kwargs:
            return None
        if constants:
            return _WITH_NUMBER.get(node.target) if type(constants[0]) in {int, float} else None
        return _TWO_ROWS.get(node.target)
    if node.target is operator.getitem:  # one of the named tables, or a part of every row
        source, key = node.args
        if isinstance(key, tuple) and len(key) > 1 and key[0] == slice(None):
            plain = all(type(one) in {int, slice} for one in key[1:])
            return operator.getitem if plain else None
        named = isinstance(source, fx.Node) and source.op == "placeholder" and isinstance(key, str)
        return operator.getitem if named else None
    if node.target in {torch.flatten, "flatten"}:
        named = not node.kwargs or set(node.kwargs) == {"start_dim"}
        beyond = others == 1 and len(constants) == 1 and type(constants[0]) is int and constants[0] >= 1
        return torch.flatten if beyond and named else None
    if node.target in {"sum", "mean", torch.sum, torch.mean}:
        named = not node.kwargs or set(node.kwargs) == {"dim"}
        beyond = others == 1 and named and len(constants) == 1 and type(constants[0]) is int and constants[0] >= 1
        return {"sum": torch.sum, "mean": torch.mean}.get(str(node.target), node.target) if beyond else None
    if node.op == "call_method" and node.target in _PARTS:
        beyond = node.target != "unsqueeze" or (len(constants) == 1 and type(constants[0]) is int and constants[0] >= 1)
        # A tensor as a border would be broadcast: (n,) against (n, 1) gives each row all others.
        numbers = others == len(constants) and all(type(one) in {int, float} for one in constants)
        return _PARTS[str(node.target)] if beyond and numbers and not node.kwargs else None
    if node.op == "call_method":
        return getattr(torch, str(node.target)) if node.target in {"tanh", "sigmoid", "relu"} and not others else None
    if node.target in _FUNCTIONS and len(node.args) - len(constants) == 1 and True not in constants:
        return node.target
    return None


def check_input(layer: nn.Module, inputs: Tensor, rows: int) -> None:
    """Refuse an input that does not have the rows as its first dimension, or that the layer would take for one row.

    Raises
    ------
    PlanError
        While training: this attempt may not leave.
    """
    wanted = _DIMENSIONS.get(type(layer))
    least = 1 + len(layer.normalized_shape) if isinstance(layer, nn.LayerNorm | nn.RMSNorm) else 2
    least = 1 if isinstance(layer, nn.Embedding) else least
    fits = inputs.dim() == wanted if wanted else inputs.dim() >= least
    if not fits or inputs.shape[0] != rows:
        raise PlanError(
            f"module: {type(layer).__name__}: wanted an input of shape (n_rows, ...), got one that mixes rows with "
            "other dimensions; this attempt may not leave"
        )
