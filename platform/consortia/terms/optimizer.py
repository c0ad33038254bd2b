"""How a participant's local steps use a gradient: the optimizer and the schedule of its learning rate.

Formal guarantee
----------------
An optimizer sees gradients that are clipped and noised already, so every choice here is post-processing: it costs no
budget. Its state (moments, averages of squares) is fresh in every round. It depends on the noisy gradients of that
round alone, never leaves, and an answer is a function of the message, as it is with plain gradient descent. FedAvg
moves the parameters between rounds, so moments of the round before would belong to another point.

Kingma and Ba 2015, *Adam*; Loshchilov and Hutter 2019, *Decoupled Weight Decay Regularization* (`adamw`); Tieleman and
Hinton 2012, lecture 6.5 (`rmsprop`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from consortia.common.strict import StrictModel

if TYPE_CHECKING:
    import torch
    from torch import nn

_Share = Annotated[float, Field(ge=0, lt=1)]
#: Average of squares where the terms name none: torch's own defaults.
_SQUARES = {"adam": 0.999, "adamw": 0.999, "rmsprop": 0.99}


class OptimizerTerms(StrictModel):
    """`optimizer` of an industry: `sgd`, `adam`, `adamw` or `rmsprop`.

    `beta1` averages gradients (adam, adamw; 0.9), `beta2` averages their squares (adam and adamw 0.999, rmsprop 0.99),
    `epsilon` stands beside the root of these. `weight_decay` of the industry is decoupled in `adamw`; `momentum` is for
    `sgd` and `rmsprop`. Its state is fresh in every round.
    """

    name: Literal["sgd", "adam", "adamw", "rmsprop"]
    beta1: Annotated[_Share | None, Field(exclude_if=lambda beta: beta is None)] = None
    beta2: Annotated[_Share | None, Field(exclude_if=lambda beta: beta is None)] = None
    epsilon: Annotated[float | None, Field(gt=0, le=1, exclude_if=lambda epsilon: epsilon is None)] = None

    @model_validator(mode="after")
    def _keys_fit_the_name(self) -> OptimizerTerms:
        if self.beta1 is not None and self.name not in {"adam", "adamw"}:
            raise ValueError(f"no beta1 with {self.name}; it is for adam and adamw")
        if self.name == "sgd" and (self.beta2 is not None or self.epsilon is not None):
            raise ValueError("no beta2 and no epsilon with sgd; they are for adam, adamw and rmsprop")
        return self

    @property
    def adaptive(self) -> bool:
        """Whether a step is something else than learning rate times gradient, with momentum."""
        return self.name != "sgd"


class ScheduleTerms(StrictModel):
    """`schedule` of an industry: what the learning rate of a round is, as a share of `learning_rate`.

    It grows in equal steps over the first `warmup` rounds, then falls to `final` at the last round: in a straight line
    (`linear`), along half a wave (`cosine`) or by the same factor each round (`exponential`). Within a round it stays.
    """

    name: Literal["linear", "cosine", "exponential"]
    final: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup: Annotated[int, Field(ge=0, le=100_000)] = 0

    def share(self, number: int, rounds: int) -> float:
        """Return the share of the learning rate, in (0, 1], of round `number` (from 1 on) of `rounds`."""
        if number <= self.warmup:
            return number / (self.warmup + 1)
        gone = min(1.0, (number - self.warmup - 1) / max(1, rounds - self.warmup - 1))
        if self.name == "linear":
            return 1 - (1 - self.final) * gone
        if self.name == "cosine":
            return self.final + (1 - self.final) * (1 + math.cos(math.pi * gone)) / 2
        return float(self.final**gone)


def make_optimizer(
    terms: OptimizerTerms | None,
    parameters: Iterable[nn.Parameter],
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Return the optimizer, without a state; plain gradient descent with momentum where `terms` is None."""
    import torch

    rest: dict[str, Any] = {"lr": learning_rate, "weight_decay": weight_decay}
    if terms is None or terms.name == "sgd":
        return torch.optim.SGD(parameters, momentum=momentum, **rest)
    squares = _SQUARES[terms.name] if terms.beta2 is None else terms.beta2
    rest["eps"] = 1e-8 if terms.epsilon is None else terms.epsilon
    if terms.name == "rmsprop":
        return torch.optim.RMSprop(parameters, alpha=squares, momentum=momentum, **rest)
    kind = torch.optim.Adam if terms.name == "adam" else torch.optim.AdamW
    return kind(parameters, betas=(0.9 if terms.beta1 is None else terms.beta1, squares), **rest)
