"""FedProx, both halves.

Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, Algorithm 2. A participant works on
F_k(theta) + mu/2 ||theta - theta_received||^2; the coordinator's half is FedAvg.

The gradient of the second term, mu (theta - theta_received), is no function of a row. In the loss, per-sample
gradients would drop it without a word (mu = 0 and mu = 100 gave equal models). It is added when the optimizer
steps: after clipping and noise, so it is post-processing of what DP-SGD released and costs no budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from strategies.base import Fit, number
from strategies.fedavg import FedAvg

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class FedProx(FedAvg):
    """FedAvg of participants that are held near the received model.

    Parameters
    ----------
    mu : float
        Strength of the proximal term; 0 is FedAvg.
    """

    mu: float

    def __post_init__(self) -> None:
        number("mu", self.mu)

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`: FedAvg's, with the proximal term."""
        return replace(super().fit, proximal=self.mu)

    def fits_learning_rate(self, learning_rate: float) -> None:
        """Raise ValueError when mu x learning_rate > 1: a step would jump over the received model."""
        if self.mu * learning_rate > 1:
            raise ValueError(
                f"mu x learning_rate <= 1 (got {self.mu:g} x {learning_rate:g}); "
                "beyond that every step jumps over the received model"
            )

    def attach(self, optimizer: torch.optim.Optimizer, received: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
        """See `strategies.base.LocalHalf.attach`."""
        import torch

        anchors = [(parameter, tensor.detach().clone()) for parameter, tensor in received]

        def pull(*_: Any) -> None:
            with torch.no_grad():
                for parameter, anchor in anchors:
                    if parameter.grad is not None:
                        parameter.grad.add_(parameter - anchor, alpha=self.mu)

        optimizer.register_step_pre_hook(pull)
