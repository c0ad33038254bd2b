"""The checks of a strategy's client half, on quadratics whose answers have a closed form.

A participant minimises f(w) = 1/2 (w - a)' H (w - a) by plain gradient steps in float64, without noise. After K steps
of size eta from the received model r, with a proximal term of strength mu,

    w_K = w* + (I - eta (H + mu I))^K (r - w*),    w* = (H + mu I)^-1 (H a + mu r).

With the correction t in every gradient, w* is a - H^-1 t. The optimum of the weighted sum of all f_i is
(sum p_i H_i)^-1 sum p_i H_i a_i; FedAvg with several local steps misses it where the H_i differ, and control variates
reach it. Gradients are written into `parameter.grad` directly: a term has to act when the optimizer steps, for under
DP that is the only place after clipping and noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from consortia.testing._client_case import require
from strategies.base import (
    Asynchronous,
    Clusters,
    Controlled,
    LocalHalf,
    Strategy,
    TakesTurns,
    Update,
    loss_bound,
)

State = dict[str, Tensor]
STEPS = 4
RATE = 0.1
#: Rounds in which control variates have to reach the optimum; most need a tenth, small server steps need more.
_ROUNDS, _AT_ONCE = 600, 50
_HALVES: tuple[tuple[type, tuple[str, ...]], ...] = (
    (LocalHalf, ("attach", "fits_learning_rate")),
    (Controlled, ("control", "correct")),
    (Clusters, ("model", "clusters")),
    (TakesTurns, ("order",)),
    (Asynchronous, ("max_staleness", "waits_for_step", "staleness_weight", "ready")),
)
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


def _of(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


#: Two participants that want different things and bend differently; and the model that both receive.
ONE = Quadratic(torch.diag(_of([1.0, 0.4, 0.7])), _of([2.0, -1.0, 0.5]))
OTHER = Quadratic(
    torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.9, 0.1], [0.0, 0.1, 0.3]], dtype=torch.float64), _of([-3.0, 1.5, 2.0])
)
RECEIVED = _of([0.6, 0.3, -1.2])
#: Flat: the loss has no gradient anywhere, so only the local term moves the model.
_FLAT = Quadratic(torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))


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


def _train(
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


def _rate_that_fits(strategy: LocalHalf) -> float:
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


def no_half_is_missing(strategy: Strategy) -> None:
    """Whoever has one method of a half has all of them; the platform passes over half a half without a word."""
    for half, names in _HALVES:
        has = [name for name in names if _is_method(strategy, name)]
        missing = [name for name in names if not hasattr(strategy, name)]
        require(
            not has or not missing,
            f"wanted all of {', '.join(names)} ({half.__name__}), got no {', '.join(missing)}; without it "
            f"{', '.join(has)} would never be called",
        )
    proximal = strategy.fit.proximal
    require(
        proximal is None or isinstance(strategy, LocalHalf),
        f"fit.proximal is {proximal}, and there is no attach that adds the term",
    )


def _is_method(strategy: Strategy, name: str) -> bool:
    found = getattr(type(strategy), name, None)
    return callable(found) or isinstance(found, property)  # an option may have such a name, too


def local_term_holds_near_the_received_model(strategy: Strategy) -> None:
    """It never moves the received model by itself, never repels from it, and lets no participant drift further."""
    if not isinstance(strategy, LocalHalf):
        return
    rate = _rate_that_fits(strategy)
    still = _train(strategy.attach, [_FLAT], RECEIVED, RECEIVED, rate=rate)
    moved = float((still - RECEIVED).norm())
    require(moved < 1e-12, f"without any gradient the local term moved the received model by {moved:.3g}, wanted 0")
    changed = False
    for seed in range(6):
        away = torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        end = _train(strategy.attach, [_FLAT], RECEIVED + away, RECEIVED, steps=1, rate=rate)
        before, after = float(away.norm()), float((end - RECEIVED).norm())
        require(
            after <= before * (1 + 1e-12),
            f"the local term pushes away from the received model: one step took a model at distance {before:.3f} to "
            f"{after:.3f}; is its sign wrong?",
        )
        changed |= abs(after - before) > 1e-9
    for loss in (ONE, OTHER):
        plain = closed_form(loss, RECEIVED, rate=rate)
        end = _train(strategy.attach, [loss], RECEIVED, RECEIVED, rate=rate)
        near, far = float((end - RECEIVED).norm()), float((plain - RECEIVED).norm())
        require(
            near <= far * (1 + 1e-12),
            f"{STEPS} steps drift {near:.4f} from the received model with the local term and {far:.4f} without it; is "
            "its sign wrong?",
        )
        changed |= not torch.allclose(end, plain, rtol=0, atol=1e-12)
    require(
        changed or strategy.fit.proximal == 0,
        "attach changes no step; add the term to parameter.grad in a step pre-hook of the optimizer",
    )


def local_term_is_the_one_declared(strategy: Strategy) -> None:
    """Where `fit.proximal` declares mu, the steps are those of f + mu/2 ||w - received||^2, to rounding."""
    mu = strategy.fit.proximal
    if mu is None or not isinstance(strategy, LocalHalf):
        return
    require(math.isfinite(mu) and mu >= 0, f"fit.proximal: wanted a finite number >= 0, got {mu!r}")
    rate = _rate_that_fits(strategy)
    for name, loss in (("first", ONE), ("second", OTHER)):
        want = closed_form(loss, RECEIVED, mu=mu, rate=rate)
        got = _train(strategy.attach, [loss], RECEIVED, RECEIVED, rate=rate)
        require(
            torch.allclose(got, want, rtol=1e-9, atol=1e-9),
            f"{name} participant, {STEPS} steps with fit.proximal = {mu:g}: wanted {_shown(want)}, got {_shown(got)}; "
            "check sign and strength of the term, and that it is measured from the received model",
        )


def correction_is_added_once_to_each_gradient(strategy: Strategy) -> None:
    """`correct` takes the very steps of f + <t, w> for whatever tensor t was sent: its sign, its size, every step."""
    if not isinstance(strategy, Controlled):
        return
    for loss, sent in ((ONE, _of([0.7, -0.2, 0.4])), (OTHER, _of([-1.0, 0.3, 0.0]))):
        want = closed_form(loss, RECEIVED, shift=sent, rate=RATE)
        got = _train(strategy.correct, [loss], RECEIVED, sent)
        require(
            torch.allclose(got, want, rtol=1e-9, atol=1e-9),
            f"{STEPS} steps corrected by {_shown(sent)}: wanted {_shown(want)}, got {_shown(got)}; add the tensor to "
            "each step's gradient, once, as it was sent",
        )


def participants_do_not_see_each_other(strategy: Strategy) -> None:
    """One's steps are the same to the bit whoever trained before, and to rounding when both train as one stack."""
    for attach, values in _client_halves(strategy):
        rate = _rate_that_fits(strategy) if isinstance(strategy, LocalHalf) else RATE
        alone = [
            _train(attach, [loss], RECEIVED, one, rate=rate) for loss, one in zip((ONE, OTHER), values, strict=True)
        ]
        for loss, one, before in ((OTHER, values[1], alone[1]), (ONE, values[0], alone[0])):
            again = _train(attach, [loss], RECEIVED, one, rate=rate)
            require(
                torch.equal(again, before),
                "the client half remembers: a participant that trains after another one gets another model; keep what "
                "it needs in the hook, not in the strategy",
            )
        both = _train(attach, [ONE, OTHER], torch.stack([RECEIVED, RECEIVED]), torch.stack(values), rate=rate)
        require(
            torch.allclose(both, torch.stack(alone), rtol=1e-9, atol=1e-9),
            "two participants stacked along the first dimension (--engine vectorized) train otherwise than each alone; "
            "let each coordinate's term depend on that coordinate only",
        )


def _client_halves(strategy: Strategy) -> list[tuple[Attach, list[Tensor]]]:
    """Return each client half with what it is given, for two participants."""
    halves: list[tuple[Attach, list[Tensor]]] = []
    if isinstance(strategy, LocalHalf):
        halves.append((strategy.attach, [RECEIVED, RECEIVED]))
    if isinstance(strategy, Controlled):
        halves.append((strategy.correct, [_of([0.7, -0.2, 0.4]), _of([-0.3, 0.2, 0.1])]))
    return halves


def both_halves_come_nearer_to_what_everybody_wants(strategy: Strategy) -> None:
    """Three rounds among participants that all have one loss make that loss smaller: server's and clients' signs."""
    start = ONE.optimum + _of([9.0, -8.0, 10.0])
    count = max(2, strategy.minimum_participants)
    end, _ = _rounds(strategy, [ONE] * count, start, rounds=3)
    require(
        ONE.value(end) < ONE.value(start),
        f"all participants have one loss; wanted less than {ONE.value(start):.4g} after three rounds, got "
        f"{ONE.value(end):.4g}; is a sign wrong?",
    )


def control_variates_reach_the_optimum_of_all(strategy: Strategy) -> None:
    """With them the rounds end at the minimum of the weighted sum, which FedAvg misses; the corrections sum to zero."""
    if not isinstance(strategy, Controlled):
        return
    count = max(2, strategy.minimum_participants)
    losses = [(ONE, OTHER)[i % 2] for i in range(count)]
    weights = _weights(strategy, count)
    hessian = torch.stack([p * loss.curvature for p, loss in zip(weights, losses, strict=True)]).sum(0)
    pull = torch.stack([p * loss.curvature @ loss.optimum for p, loss in zip(weights, losses, strict=True)]).sum(0)
    optimum = torch.linalg.solve(hessian, pull)
    end, memory, number, before = RECEIVED, State(), 0, math.inf
    while number < _ROUNDS:
        end, memory = _rounds(strategy, losses, end, rounds=_AT_ONCE, memory=memory, first=number + 1)
        number += _AT_ONCE
        miss = float((end - optimum).norm())
        if miss < 1e-3 or miss > 0.99 * before:  # there, or no longer on the way
            break
        before = miss
    require(
        miss < 1e-3,
        f"{number} rounds on two quadratics: wanted the minimum of their weighted sum {_shown(optimum)}, got "
        f"{_shown(end)}; the correction of a participant is the gradient of all minus its own (check signs in control, "
        "correct and aggregate)",
    )
    sent = [joined(dict(strategy.control(split(end), memory, _name(i)))) for i in range(count)]
    total = float(torch.stack([p * one for p, one in zip(weights, sent, strict=True)]).sum(0).norm())
    require(total < 1e-6, f"the weighted corrections sum to {total:.3g}, wanted 0: together they move the model")


def _weights(strategy: Strategy, count: int) -> list[float]:
    if strategy.fit.weights == "equal":
        return [1 / count] * count
    uneven = [1.0 + i % 2 for i in range(count)]
    return [weight / sum(uneven) for weight in uneven]


def _name(number: int) -> str:
    return f"p{number:02d}"


def _rounds(
    strategy: Strategy,
    losses: Sequence[Quadratic],
    start: Tensor,
    *,
    rounds: int,
    memory: State | None = None,
    first: int = 1,
) -> tuple[Tensor, State]:
    """Play whole rounds, both halves, without the platform; return the shared model and the strategy's memory."""
    rate = _rate_that_fits(strategy) if isinstance(strategy, LocalHalf) else RATE
    weights = _weights(strategy, len(losses))
    current, memory = split(start), memory or {}
    for number in range(first, first + rounds):
        updates = []
        for i, (loss, weight) in enumerate(zip(losses, weights, strict=True)):
            sent = strategy.model(current, memory, _name(i)) if isinstance(strategy, Clusters) else current
            point = joined(sent)
            control = (
                joined(strategy.control(current, memory, _name(i)))
                if isinstance(strategy, Controlled)
                else torch.zeros(3, dtype=torch.float64)
            )
            if strategy.fit.gradient:
                state = split(loss.gradient(point))
            else:
                state = split(_train(_both(strategy, point, control), [loss], point, point, rate=rate))
            claimed = min(loss.value(point), loss_bound(strategy))
            updates.append(
                Update(_name(i), state, weight, bound=5.0, steps=STEPS, learning_rate=rate, loss=claimed, start=sent)
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
    """Return one attach for all that the strategy has, as `local_training` does it."""
    values = split(control)

    def attach(optimizer: torch.optim.Optimizer, pairs: list[tuple[nn.Parameter, Tensor]]) -> None:
        if isinstance(strategy, LocalHalf):
            strategy.attach(optimizer, pairs)
        if isinstance(strategy, Controlled):
            parameters = [parameter for parameter, _ in pairs]
            strategy.correct(optimizer, list(zip(parameters, values.values(), strict=False)))

    return attach


def _shown(point: Tensor) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in point.tolist()) + "]"
