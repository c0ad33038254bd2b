"""Checks the client half of a strategy on quadratics with known answers."""

from __future__ import annotations

import math

import torch

from consortia.testing._strategy_quadratics import (
    FLAT,
    ONE,
    OTHER,
    RATE,
    RECEIVED,
    STEPS,
    Attach,
    State,
    closed_form,
    joined,
    name_of,
    rate_that_fits,
    rounds,
    split,
    train,
    vector,
    weights_of,
)
from consortia.testing._suite import require
from strategies.base import Asynchronous, Clusters, Controlled, LocalHalf, Strategy, TakesTurns

#: Rounds in which control variates have to reach the optimum; most need a tenth, small server steps need more.
_ROUNDS, _AT_ONCE = 600, 50
_HALVES: tuple[tuple[type, tuple[str, ...]], ...] = (
    (LocalHalf, ("attach", "fits_learning_rate")),
    (Controlled, ("control", "correct")),
    (Clusters, ("model", "clusters")),
    (TakesTurns, ("order",)),
    (Asynchronous, ("max_staleness", "waits_for_step", "staleness_weight", "ready")),
)


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
    rate = rate_that_fits(strategy)
    still = train(strategy.attach, [FLAT], RECEIVED, RECEIVED, rate=rate)
    moved = float((still - RECEIVED).norm())
    require(moved < 1e-12, f"without any gradient the local term moved the received model by {moved:.3g}, wanted 0")
    changed = False
    for seed in range(6):
        away = torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        end = train(strategy.attach, [FLAT], RECEIVED + away, RECEIVED, steps=1, rate=rate)
        before, after = float(away.norm()), float((end - RECEIVED).norm())
        require(
            after <= before * (1 + 1e-12),
            f"the local term pushes away from the received model: one step took a model at distance {before:.3f} to "
            f"{after:.3f}; is its sign wrong?",
        )
        changed |= abs(after - before) > 1e-9
    for loss in (ONE, OTHER):
        plain = closed_form(loss, RECEIVED, rate=rate)
        end = train(strategy.attach, [loss], RECEIVED, RECEIVED, rate=rate)
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
    rate = rate_that_fits(strategy)
    for name, loss in (("first", ONE), ("second", OTHER)):
        want = closed_form(loss, RECEIVED, mu=mu, rate=rate)
        got = train(strategy.attach, [loss], RECEIVED, RECEIVED, rate=rate)
        require(
            torch.allclose(got, want, rtol=1e-9, atol=1e-9),
            f"{name} participant, {STEPS} steps with fit.proximal = {mu:g}: wanted {_shown(want)}, got {_shown(got)}; "
            "check sign and strength of the term, and that it is measured from the received model",
        )


def correction_is_added_once_to_each_gradient(strategy: Strategy) -> None:
    """`correct` takes the very steps of f + <t, w> for whatever tensor t was sent: its sign, its size, every step."""
    if not isinstance(strategy, Controlled):
        return
    for loss, sent in ((ONE, vector([0.7, -0.2, 0.4])), (OTHER, vector([-1.0, 0.3, 0.0]))):
        want = closed_form(loss, RECEIVED, shift=sent, rate=RATE)
        got = train(strategy.correct, [loss], RECEIVED, sent)
        require(
            torch.allclose(got, want, rtol=1e-9, atol=1e-9),
            f"{STEPS} steps corrected by {_shown(sent)}: wanted {_shown(want)}, got {_shown(got)}; add the tensor to "
            "each step's gradient, once, as it was sent",
        )


def participants_do_not_see_each_other(strategy: Strategy) -> None:
    """One's steps are the same to the bit whoever trained before, and to rounding when both train as one stack."""
    for attach, values in _client_halves(strategy):
        rate = rate_that_fits(strategy) if isinstance(strategy, LocalHalf) else RATE
        alone = [
            train(attach, [loss], RECEIVED, one, rate=rate) for loss, one in zip((ONE, OTHER), values, strict=True)
        ]
        for loss, one, before in ((OTHER, values[1], alone[1]), (ONE, values[0], alone[0])):
            again = train(attach, [loss], RECEIVED, one, rate=rate)
            require(
                torch.equal(again, before),
                "the client half remembers: a participant that trains after another one gets another model; keep what "
                "it needs in the hook, not in the strategy",
            )
        both = train(attach, [ONE, OTHER], torch.stack([RECEIVED, RECEIVED]), torch.stack(values), rate=rate)
        require(
            torch.allclose(both, torch.stack(alone), rtol=1e-9, atol=1e-9),
            "two participants stacked along the first dimension (--engine vectorized) train otherwise than each alone; "
            "let each coordinate's term depend on that coordinate only",
        )


def _client_halves(strategy: Strategy) -> list[tuple[Attach, list[torch.Tensor]]]:
    """Return each client half with what it is given, for two participants."""
    halves: list[tuple[Attach, list[torch.Tensor]]] = []
    if isinstance(strategy, LocalHalf):
        halves.append((strategy.attach, [RECEIVED, RECEIVED]))
    if isinstance(strategy, Controlled):
        halves.append((strategy.correct, [vector([0.7, -0.2, 0.4]), vector([-0.3, 0.2, 0.1])]))
    return halves


def both_halves_come_nearer_to_what_everybody_wants(strategy: Strategy) -> None:
    """Three rounds among participants that all have one loss make that loss smaller: server's and clients' signs."""
    start = ONE.optimum + vector([9.0, -8.0, 10.0])
    count = max(2, strategy.minimum_participants)
    end, _ = rounds(strategy, [ONE] * count, start, count=3)
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
    weights = weights_of(strategy, count)
    hessian = torch.stack([p * loss.curvature for p, loss in zip(weights, losses, strict=True)]).sum(0)
    pull = torch.stack([p * loss.curvature @ loss.optimum for p, loss in zip(weights, losses, strict=True)]).sum(0)
    optimum = torch.linalg.solve(hessian, pull)
    end, memory, number, before = RECEIVED, State(), 0, math.inf
    while number < _ROUNDS:
        end, memory = rounds(strategy, losses, end, count=_AT_ONCE, memory=memory, first=number + 1)
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
    sent = [joined(dict(strategy.control(split(end), memory, name_of(i)))) for i in range(count)]
    total = float(torch.stack([p * one for p, one in zip(weights, sent, strict=True)]).sum(0).norm())
    require(total < 1e-6, f"the weighted corrections sum to {total:.3g}, wanted 0: together they move the model")


def _shown(point: torch.Tensor) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in point.tolist()) + "]"
