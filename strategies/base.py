"""Defines a strategy: a frozen value with one pure function. One file per algorithm, its paper on top."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from strategies.arithmetic import State

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Update:
    """One participant's validated reply for one group of parameters.

    Attributes
    ----------
    participant : str
    state : mapping of str to Tensor
        Parameters after local training, or a gradient for FedSGD.
    weight : float
        Share of the aggregate, from declared sizes; the weights of one aggregation sum to one.
    bound : float
        L2 norm that an honest change of these parameters does not exceed, from public terms; infinite where
        nothing public bounds it.
    steps : float
        Effective local steps (the L1 norm of FedNova's vector a), from the contract.
    learning_rate : float
        Of those steps, from the contract.
    share : float
        Share of the whole group, whoever answered, from declared sizes; negative means that it is `weight`.
    loss : float
        Mean training loss of the received parameters, where `Fit.loss` says that participants release it.
    start : mapping of str to Tensor or None
        The parameters that local training started from, where these are older than the current ones.
    staleness : int
        Steps that the shared parameters made since `start`.
    """

    participant: str
    state: State
    weight: float
    bound: float = float("inf")
    steps: float = 1.0
    learning_rate: float = 1.0
    share: float = -1.0
    loss: float = float("nan")
    start: State | None = None
    staleness: int = 0

    @property
    def share_of_all(self) -> float:
        """Weight in the whole group: `weight` where everybody answered."""
        return self.weight if self.share < 0 else self.share


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What an algorithm fits with: data, read by `consortia check` before a run.

    Attributes
    ----------
    weights : str
        "any"; "equal" (every participant has one vote, declared sizes cannot count); "minority" (as many of the
        heaviest participants as there may be attackers must weigh less than half together).
    at_least, per_attacker : int
        Participants for which it is meaningful: at_least + per_attacker x attackers. Robust algorithms have
        per_attacker > 0, so they need at least three participants: two have no majority.
    sum_only : bool
        It needs the (weighted) sum of the updates only, so it could work on a secure sum.
    consensus : bool
        Equal updates give that very update (server optimizers take a step of their own instead).
    bound : str
        Whether it uses a public bound of an honest change: "no", "uses", or "needs" (then every participant
        must train under DP).
    loss : bool
        Participants also release their training loss: non-private ones, where the contract releases metrics.
    gradient : bool
        Participants send a gradient of one step instead of parameters.
    plain_steps : bool
        Its formula uses the learning rate and momentum of gradient descent, so local optimizers must be `sgd`.
    server_learning_rate, server_momentum : bool
        Whether it takes these keys.
    proximal : float or None
        mu of the term mu/2 ||w - received||^2 that `LocalHalf.attach` adds to the local loss; 0 adds nothing. None
        where there is no such term, or another one. `check_strategy` compares the local steps with it.
    """

    weights: Literal["any", "equal", "minority"] = "any"
    at_least: int = 1
    per_attacker: int = 0
    sum_only: bool = False
    consensus: bool = True
    bound: Literal["no", "uses", "needs"] = "no"
    loss: bool = False
    gradient: bool = False
    plain_steps: bool = False
    server_learning_rate: bool = False
    server_momentum: bool = False
    proximal: float | None = None


class Strategy(Protocol):
    """What the coordinator's loop asks of an algorithm."""

    @property
    def fit(self) -> Fit:
        """What it fits with."""
        ...

    @property
    def minimum_participants(self) -> int:
        """Replies below which `aggregate` raises ValueError."""
        ...

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the next shared parameters and the strategy's next memory (moments, say).

        Parameters
        ----------
        current : mapping of str to Tensor
            The parameters that were sent out.
        updates : sequence of Update
            Validated replies, at least `minimum_participants`.
        memory : mapping of str to Tensor
            What the last call returned; empty in round 1. It is part of every checkpoint.
        """
        ...


@runtime_checkable
class LocalHalf(Protocol):
    """A strategy that changes local training too."""

    def attach(self, optimizer: torch.optim.Optimizer, received: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
        """Add the local term to the participant's optimizer.

        It sees the gradient that the optimizer is about to apply: under DP clipped and noisy already, so what
        it adds is post-processing and costs no budget.

        Parameters
        ----------
        received : sequence of (parameter, tensor)
            The shared parameters of the module, each with the values that came from the coordinator.
        """
        ...

    def fits_learning_rate(self, learning_rate: float) -> None:
        """Raise ValueError when local steps of that size cannot work with the local term."""
        ...


@runtime_checkable
class Controlled(Protocol):
    """A strategy that sends each participant a tensor beside the model and moves its gradients by it."""

    def control(self, current: State, memory: State, participant: str) -> dict[str, Tensor]:
        """Return one tensor for each floating parameter of `current`, in its shape and dtype.

        A function of what was released already, so it holds nothing new.
        """
        ...

    def correct(self, optimizer: torch.optim.Optimizer, corrections: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
        """Add the tensors to the gradients that the optimizer is about to apply: after clipping and noise."""
        ...


@runtime_checkable
class Clusters(Protocol):
    """A strategy that finds clusters among the members of a group and gives each cluster its own parameters."""

    def model(self, current: State, memory: State, participant: str) -> dict[str, Tensor]:
        """Return the parameters that a participant gets. Its next update says how it changed these.

        Names, shapes and dtypes are those of `current`. With one cluster the parameters are `current` itself.
        """
        ...

    def clusters(self, memory: State, names: Iterable[str]) -> dict[str, int]:
        """Return the number of each participant's cluster."""
        ...


@runtime_checkable
class TakesTurns(Protocol):
    """A strategy that asks one participant a round."""

    def order(self, number: int, names: Sequence[str]) -> list[str]:
        """Return all `names`: first whose turn it is in round `number`, then who is asked if it does not answer."""
        ...


@runtime_checkable
class Asynchronous(Protocol):
    """A strategy without rounds: the shared parameters step when it says so, and nobody waits for the slowest.

    Its `aggregate` gets what is in the buffer: updates with their `start` and `staleness`, several of one participant
    perhaps.
    """

    @property
    def max_staleness(self) -> int:
        """Steps behind which a reply is dropped."""
        ...

    @property
    def waits_for_step(self) -> bool:
        """Whether a participant that answered is asked again after the next step only."""
        ...

    def staleness_weight(self, staleness: int) -> float:
        """Return s(staleness) in (0, 1]: s(0) = 1, and it never grows."""
        ...

    def ready(self, buffered: int, working: int, seconds: float) -> bool:
        """Return whether a group steps now.

        Parameters
        ----------
        buffered : int
            Replies since the last step, at least one.
        working : int
            Participants of the group that have a message and have not answered.
        seconds : float
            Since the group's last step, or since its participants were asked for the first time.
        """
        ...


def loss_bound(strategy: Strategy) -> float:
    """Return the public bound of the training losses that participants release; infinite where there is none."""
    return float(getattr(strategy, "loss_bound", float("inf")))


class Simple:
    """Defaults of an algorithm that works with one participant already."""

    @property
    def minimum_participants(self) -> int:
        """One."""
        return 1


def number(name: str, value: float, *, least: float = 0.0, most: float = math.inf, above: bool = False) -> None:
    """Raise ValueError unless `value` is finite and between the bounds (above the lower one with `above`)."""
    fits = math.isfinite(value) and (value > least if above else value >= least) and value <= most
    if isinstance(value, bool) or not fits:
        upper = "" if math.isinf(most) else f" and <= {most:g}"
        raise ValueError(f"{name}: wanted a finite number {'>' if above else '>='} {least:g}{upper}, got {value!r}")


def whole(name: str, value: int, *, least: int) -> None:
    """Raise ValueError unless `value` is a whole number that is large enough."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: wanted a whole number >= {least}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Robust:
    """What robust algorithms share.

    Parameters
    ----------
    attackers : int
        How many participants of a group may send anything at all, f >= 1.
    """

    attackers: int = 1

    def __post_init__(self) -> None:
        whole("attackers", self.attackers, least=1)

    @property
    def fit(self) -> Fit:
        """See `Strategy.fit`."""
        raise NotImplementedError

    @property
    def minimum_participants(self) -> int:
        """at_least + per_attacker x attackers."""
        return self.fit.at_least + self.fit.per_attacker * self.attackers

    def check_enough(self, got: int) -> None:
        """Raise ValueError when there are fewer updates than the algorithm can be meaningful for."""
        if got < self.minimum_participants:
            raise ValueError(
                f"updates: wanted at least {self.minimum_participants} for {self.attackers} attacker(s), got {got}"
            )
