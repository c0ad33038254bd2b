"""FedAdagrad, FedAdam and FedYogi as the paper has them.

Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2. With Delta = mean - received:

    m <- beta_1 m + (1 - beta_1) Delta
    v <- v + Delta^2                                          (FedAdagrad)
    v <- beta_2 v + (1 - beta_2) Delta^2                      (FedAdam)
    v <- v - (1 - beta_2) Delta^2 sign(v - Delta^2)           (FedYogi)
    theta <- theta + eta m / (sqrt(v) + tau)

v starts at `initial`, by default tau^2, the least that the paper allows (Flower starts at 0). There is no bias
correction in the paper (Flower's FedAdam has one, counted one round late); for torch's Adam take
`server-optimizer`. The paper's FedAdagrad has beta_1 = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from strategies.arithmetic import State, mean_change
from strategies.base import Fit, Simple, Update, number

if TYPE_CHECKING:
    from torch import Tensor

Rule = Literal["adagrad", "adam", "yogi"]


def second_moment(rule: Rule, v: Tensor, delta: Tensor, beta_2: float) -> Tensor:
    """Return the next v."""
    import torch

    square = delta.square()
    if rule == "adagrad":
        return v + square
    if rule == "adam":
        return beta_2 * v + (1 - beta_2) * square
    return v - (1 - beta_2) * square * torch.sign(v - square)


@dataclass(frozen=True, kw_only=True)
class FedOpt(Simple):
    """Algorithm 2; the subclasses choose the line of v.

    Parameters
    ----------
    server_learning_rate : float
        eta.
    beta_1, beta_2 : float
        In [0, 1).
    tau : float
        Adaptivity, > 0.
    initial : float
        v before the first round; negative means tau^2.
    """

    server_learning_rate: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3
    initial: float = -1.0

    def __post_init__(self) -> None:
        for name in ("beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: wanted a number in [0, 1), got {getattr(self, name)!r}")
        number("tau", self.tau, above=True)
        if not self.initial < math.inf:
            raise ValueError(f"initial: wanted a finite number, got {self.initial!r}")

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`."""
        return Fit(sum_only=True, consensus=False, server_learning_rate=True)

    @property
    def rule(self) -> Rule:
        """Which line of v."""
        raise NotImplementedError

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`; the memory is m/<parameter> and v/<parameter>."""
        import torch

        change = mean_change(current, [u.state for u in updates], [u.weight for u in updates])
        start = self.tau**2 if self.initial < 0 else self.initial
        new: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name, tensor in current.items():
            if not tensor.is_floating_point():
                new[name] = change[name]
                continue
            delta = change[name]
            m = self.beta_1 * memory.get(f"m/{name}", torch.zeros_like(delta)) + (1 - self.beta_1) * delta
            v = second_moment(self.rule, memory.get(f"v/{name}", torch.full_like(delta, start)), delta, self.beta_2)
            new[name] = (tensor.double() + self.server_learning_rate * m / (v.sqrt() + self.tau)).to(tensor.dtype)
            kept |= {f"m/{name}": m, f"v/{name}": v}
        return new, kept


@dataclass(frozen=True, kw_only=True)
class FedAdagrad(FedOpt):
    """The paper's FedAdagrad, beta_1 = 0 as in its experiments."""

    beta_1: float = 0.0

    @property
    def rule(self) -> Rule:
        """See `FedOpt.rule`."""
        return "adagrad"


@dataclass(frozen=True, kw_only=True)
class FedAdam(FedOpt):
    """The paper's FedAdam."""

    @property
    def rule(self) -> Rule:
        """See `FedOpt.rule`."""
        return "adam"


@dataclass(frozen=True, kw_only=True)
class FedYogi(FedOpt):
    """The paper's FedYogi; the rule of v is from Zaheer et al., NeurIPS 2018."""

    @property
    def rule(self) -> Rule:
        """See `FedOpt.rule`."""
        return "yogi"
