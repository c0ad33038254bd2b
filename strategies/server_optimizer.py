"""Server optimizers: any optimizer of torch on the pseudo-gradient.

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 1 (FedOpt): the coordinator treats
received - mean as a gradient and hands it to an optimizer of its own. Here that optimizer is `torch.optim` itself,
so its update rule, defaults and state are torch's (for the paper's own FedAdagrad, FedAdam and FedYogi see
`strategies.fedopt`).

The state of the optimizer is the strategy's memory. Parameters and state are float64, so a run that was resumed
from a checkpoint goes on to the bit.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from strategies.arithmetic import State, mean_change
from strategies.base import Fit, Simple, Update

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Names in `torch.optim`, which is loaded when one is made. Missing on purpose: LBFGS wants to evaluate losses,
#: SparseAdam sparse gradients, Muon matrices only, and ASGD averages on its own (`average_last` does that here).
OPTIMIZERS: dict[str, str] = {
    "adadelta": "Adadelta",
    "adafactor": "Adafactor",
    "adagrad": "Adagrad",
    "adam": "Adam",
    "adamax": "Adamax",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "radam": "RAdam",
    "rmsprop": "RMSprop",
    "rprop": "Rprop",
    "sgd": "SGD",
}
#: Not allowed: arguments that say how torch executes a step, change a sign, or need a graph.
_NOT_OURS = {"params", "lr", "foreach", "fused", "capturable", "differentiable", "maximize"}
Value = bool | int | float | str | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ServerOptimizer(Simple):
    """One step of a torch optimizer on received - weighted mean.

    Parameters
    ----------
    optimizer : str
        One of `OPTIMIZERS`.
    server_learning_rate : float
        torch's `lr`.
    arguments : tuple of (name, value)
        Torch's other arguments of that optimizer; its defaults otherwise, but no weight decay.
    """

    optimizer: str
    server_learning_rate: float = 1.0
    arguments: tuple[tuple[str, Value], ...] = ()

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer: wanted one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        import torch

        known = set(inspect.signature(self._kind()).parameters) - _NOT_OURS
        for name, _ in self.arguments:
            if name not in known:
                raise ValueError(f"{name}: wanted one of {', '.join(sorted(known))} for {self.optimizer}")
        try:
            parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
            parameter.grad = torch.zeros_like(parameter)
            self._make([parameter]).step()
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ValueError(f"{self.optimizer}: wanted arguments that torch takes, got: {error}") from None

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`."""
        return Fit(sum_only=True, consensus=False, server_learning_rate=True)

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`; the memory is torch's state, `<parameter>/<slot>`."""
        import torch

        mean = mean_change(current, [u.state for u in updates], [u.weight for u in updates])
        # Empty parameters have nothing to step, and some optimizers divide by their size.
        names = sorted(name for name, tensor in current.items() if tensor.is_floating_point() and tensor.numel())
        held = {name: torch.nn.Parameter(current[name].to(torch.float64, copy=True)) for name in names}
        if not held:
            return {name: mean[name].to(tensor.dtype) for name, tensor in current.items()}, {}
        optimizer = self._make(list(held.values()))
        slots: dict[str, dict[str, Tensor]] = {}
        for key, tensor in memory.items():
            name, _, slot = key.rpartition("/")
            slots.setdefault(name, {})[slot] = tensor.clone()
        for name, parameter in held.items():
            parameter.grad = -mean[name]
            if name in slots:
                optimizer.state[parameter] = dict(slots[name])
        optimizer.step()
        new = {
            name: (held[name].detach() if name in held else mean[name]).to(tensor.dtype)
            for name, tensor in current.items()
        }
        kept = {
            f"{name}/{slot}": value.detach().clone()
            for name, parameter in held.items()
            for slot, value in optimizer.state[parameter].items()
            if isinstance(value, torch.Tensor)
        }
        return new, kept

    def _make(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        kind = self._kind()
        chosen: dict[str, Any] = dict(self.arguments)
        if "weight_decay" in inspect.signature(kind).parameters:
            chosen.setdefault("weight_decay", 0.0)  # AdamW's default would shrink a model that nobody moved
        optimizer: torch.optim.Optimizer = kind(parameters, lr=self.server_learning_rate, **chosen)
        return optimizer

    def _kind(self) -> Any:
        from torch import optim

        return getattr(optim, OPTIMIZERS[self.optimizer])
