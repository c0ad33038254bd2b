"""Quadratics for the client half of a strategy: steps, rounds and their closed forms.

A participant minimises f(w) = 1/2 (w - a)' H (w - a) by plain gradient steps in float64, without noise. After K steps
of size eta from the received model r, with a proximal term of strength mu,

    w_K = w* + (I - eta (H + mu I))^K (r - w*),    w* = (H + mu I)^-1 (H a + mu r).

With the correction t in every gradient, w* is a - H^-1 t. The optimum of the weighted sum of all f_i is
(sum p_i H_i)^-1 sum p_i H_i a_i; FedAvg with several local steps misses it where the H_i differ, and control variates
reach it. Gradients are written into `parameter.grad` directly: a term has to act when the optimizer steps, for under
DP that is the only place after clipping and noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from consortia.testing._suite import require
from strategies.base import Clusters, Controlled, LocalHalf, Strategy, TakesTurns, Update, loss_bound

State = dict[str, Tensor]
STEPS = 4
RATE = 0.1
Attach = Callable[[torch.optim.Optimizer, list[tuple[nn.Parameter, Tensor]]], None]


@dataclass(frozen=True)
class Quadratic:
    """f(w) = 1/2 (w - a)' H (w - a).

    Attributes
    ----------
    curvature : Tensor
        H, (3, 3), symmetric, eigenvalues in (0, 1].
    optimum : Tensor
        a, (3,).
    """

    curvature: Tensor
    optimum: Tensor

    def gradient(self, point: Tensor) -> Tensor:
        """Return the gradient at `point`, (3,)."""
        return self.curvature @ (point - self.optimum)

    def value(self, point: Tensor) -> float:
        """Return f."""
        return float(0.5 * (point - self.optimum) @ self.gradient(point))


def vector(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


#: Two participants that want different things and bend differently; and the model that both receive.
ONE = Quadratic(torch.diag(vector([1.0, 0.4, 0.7])), vector([2.0, -1.0, 0.5]))
OTHER = Quadratic(
    torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.9, 0.1], [0.0, 0.1, 0.3]], dtype=torch.float64), vector([-3.0, 1.5, 2.0])
)
RECEIVED = vector([0.6, 0.3, -1.2])
#: Flat: the loss has no gradient anywhere, so only the local term moves the model.
FLAT = Quadratic(torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))


def split(point: Tensor) -> State:
    """Return the model of a point: two parameters."""
    return {"encoder.weight": point[..., :2].clone(), "head.bias": point[..., 2:].clone()}


def joined(model: State) -> Tensor:
    """Return the point of a model."""
    return torch.cat([model["encoder.weight"], model["head.bias"]], dim=-1).detach().clone()


def _said(what: str, call: Callable[[], None]) -> None:
    """Run a part of the client half; an exception of it is one sentence."""
    try:
        call()
    except Exception as error:
        raise AssertionError(
            f"{what}: wanted no exception at an honest participant, got {type(error).__name__}: {error}; every run "
            "with this strategy would end there"
        ) from error


def train(
    attach: Attach,
    losses: Sequence[Quadratic],
    start: Tensor,
    values: Tensor,
    *,
    steps: int = STEPS,
    rate: float = RATE,
) -> Tensor:
    """Take steps with a client half attached.

    Parameters
    ----------
    losses : sequence of Quadratic
        One, or one for each row of `start`: participants trained as a stack, as `--engine vectorized` does.
    start : Tensor
        Where the steps start, (3,) or (n, 3).
    values : Tensor
        What `attach` gets beside the parameters, in the shape of `start`.
    """
    parameters = {name: nn.Parameter(tensor) for name, tensor in split(start).items()}
    frozen = nn.Parameter(torch.ones(2, dtype=torch.float64))  # has no gradient, as a module's unused parameter
    optimizer = torch.optim.SGD([*parameters.values(), frozen], lr=rate)
    given = split(values)
    kept = {name: tensor.clone() for name, tensor in given.items()}
    random = torch.get_rng_state()
    pairs = [(parameters[name], given[name]) for name in parameters]
    _said("attach or correct", lambda: attach(optimizer, [*pairs, (frozen, torch.zeros(2, dtype=torch.float64))]))
    require(
        torch.equal(joined(dict(parameters)), start), "attach moved the model; it may only change what the steps do"
    )
    for _ in range(steps):
        point = joined(dict(parameters))
        rows = point if point.dim() > 1 else point.unsqueeze(0)
        gradient = torch.stack([loss.gradient(row) for loss, row in zip(losses, rows, strict=True)]).reshape(
            start.shape
        )
        for name, part in split(gradient).items():
            parameters[name].grad = part
        _said("a step with the local term", lambda: optimizer.step() and None)
    require(torch.equal(random, torch.get_rng_state()), "the client half draws from torch's global generator")
    require(
        all(torch.equal(given[name], kept[name]) for name in given),
        "the client half changed the tensors that it was given; they are the received model itself",
    )
    require(torch.equal(frozen, torch.ones(2)), "the client half moved a parameter that has no gradient")
    end = joined(dict(parameters))
    require(bool(torch.isfinite(end).all()), "the client half made the model NaN or infinite")
    return end


def closed_form(
    loss: Quadratic, received: Tensor, *, mu: float = 0.0, shift: Tensor | None = None, rate: float
) -> Tensor:
    """Return w_K of the module's docstring, (3,); `loss` must not be flat."""
    eye = torch.eye(3, dtype=torch.float64)
    bent = loss.curvature + mu * eye
    pull = loss.curvature @ loss.optimum + mu * received - (torch.zeros(3).double() if shift is None else shift)
    limit = torch.linalg.solve(bent, pull)
    power: Tensor = torch.linalg.matrix_power(eye - rate * bent, STEPS)
    end: Tensor = limit + power @ (received - limit)
    return end


def rate_that_fits(strategy: LocalHalf) -> float:
    """Return a learning rate that the strategy accepts, at most `RATE`."""
    for halving in range(30):
        rate: float = RATE * 0.5**halving
        try:
            strategy.fits_learning_rate(rate)
        except ValueError:
            continue
        except Exception as error:
            raise AssertionError(
                f"fits_learning_rate: wanted None or ValueError for {rate:g}, got {type(error).__name__}: {error}"
            ) from error
        return rate
    raise AssertionError(f"fits_learning_rate: wanted a learning rate that fits, got none from {RATE} down to 1e-10")


def weights_of(strategy: Strategy, count: int) -> list[float]:
    if strategy.fit.weights == "equal":
        return [1 / count] * count
    uneven = [1.0 + i % 2 for i in range(count)]
    return [weight / sum(uneven) for weight in uneven]


def name_of(number: int) -> str:
    return f"p{number:02d}"


def rounds(
    strategy: Strategy,
    losses: Sequence[Quadratic],
    start: Tensor,
    *,
    count: int,
    memory: State | None = None,
    first: int = 1,
) -> tuple[Tensor, State]:
    """Play whole rounds, both halves, without the platform; return the shared model and the strategy's memory."""
    rate = rate_that_fits(strategy) if isinstance(strategy, LocalHalf) else RATE
    weights = weights_of(strategy, len(losses))
    current, memory = split(start), memory or {}
    for number in range(first, first + count):
        updates = []
        for i, (loss, weight) in enumerate(zip(losses, weights, strict=True)):
            sent = strategy.model(current, memory, name_of(i)) if isinstance(strategy, Clusters) else current
            point = joined(sent)
            control = (
                joined(strategy.control(current, memory, name_of(i)))
                if isinstance(strategy, Controlled)
                else torch.zeros(3, dtype=torch.float64)
            )
            if strategy.fit.gradient:
                state = split(loss.gradient(point))
            else:
                state = split(train(_both(strategy, point, control), [loss], point, point, rate=rate))
            claimed = min(loss.value(point), loss_bound(strategy))
            updates.append(
                Update(name_of(i), state, weight, bound=5.0, steps=STEPS, learning_rate=rate, loss=claimed, start=sent)
            )
        if isinstance(strategy, TakesTurns):
            turn = strategy.order(number, [update.participant for update in updates])[0]
            updates = [update for update in updates if update.participant == turn]
        current, memory = strategy.aggregate(current, updates, memory)
        require(
            all(bool(torch.isfinite(tensor).all()) for tensor in current.values()),
            f"round {number} on quadratics: the model is NaN or infinite",
        )
    return joined(current), memory


def _both(strategy: Strategy, received: Tensor, control: Tensor) -> Attach:
    """Return one attach for all that the strategy has, as `participant.training` does it."""
    values = split(control)

    def attach(optimizer: torch.optim.Optimizer, pairs: list[tuple[nn.Parameter, Tensor]]) -> None:
        if isinstance(strategy, LocalHalf):
            strategy.attach(optimizer, pairs)
        if isinstance(strategy, Controlled):
            parameters = [parameter for parameter, _ in pairs]
            strategy.correct(optimizer, list(zip(parameters, values.values(), strict=False)))

    return attach
