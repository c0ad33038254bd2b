"""`check_strategy` on broken client halves: each mutant fails the check that is named after what it breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from consortia.testing import StrategyCheckError, check_strategy
from consortia.testing import _strategy_local_checks as local
from consortia.testing import _strategy_quadratics as quadratics
from consortia.testing._strategies import _CHECKS
from strategies.base import Fit
from strategies.fedavg import FedAvg
from strategies.fedprox import FedProx
from strategies.fedsgd import FedSGD
from strategies.scaffold import Scaffold

Hook = Callable[[torch.nn.Parameter, torch.Tensor], torch.Tensor]


def _add(optimizer: Any, pairs: Any, term: Hook) -> None:
    def hook(*_: Any) -> None:
        with torch.no_grad():
            for parameter, tensor in pairs:
                if parameter.grad is not None:
                    parameter.grad.add_(term(parameter, tensor))

    optimizer.register_step_pre_hook(hook)


@dataclass(frozen=True, kw_only=True)
class _Prox(FedProx):
    """FedProx with another local term."""

    mu: float = 0.5
    change: Callable[..., None]
    declared: bool = True

    @property
    def fit(self) -> Fit:
        return replace(super().fit, proximal=self.mu if self.declared else None)

    def attach(self, optimizer: Any, received: Any) -> None:
        self.change(optimizer, received, self.mu)


def repels(optimizer, received, mu):
    _add(optimizer, received, lambda p, t: -mu * (p - t))


def twice_as_strong(optimizer, received, mu):
    _add(optimizer, received, lambda p, t: 2 * mu * (p - t))


def towards_zero(optimizer, received, mu):
    _add(optimizer, received, lambda p, t: mu * p)


def as_it_is_now(optimizer, received, mu):
    _add(optimizer, received, lambda p, t: mu * (p - p))


def not_squared(optimizer, received, mu):
    _add(optimizer, received, lambda p, t: mu * (p - t) / (p - t).norm().clamp(min=1e-9))


def raises(optimizer, received, mu):
    raise RuntimeError("the local half is never called")


def raises_at_the_step(optimizer, received, mu):
    _add(optimizer, received, lambda p, t: t[10])


def not_a_number(optimizer, received, mu):
    _add(optimizer, received, lambda p, t: (p - t) / (p - t).norm())


def writes_into_what_came(optimizer, received, mu):
    _add(optimizer, received, lambda p, t: t.mul_(0.999).mul(0))


def moves_at_once(optimizer, received, mu):
    with torch.no_grad():
        received[0][0].add_(0.01)


def draws(optimizer, received, mu):
    _add(optimizer, received, lambda p, t: mu * (p - t) + 0 * torch.rand(1))


def acts_in_the_backward_pass(optimizer, received, mu):
    # Under DP the gradients of rows are clipped after this, and torch calls it for none of them.
    for parameter, tensor in received:
        parameter.register_hook(lambda g, p=parameter, t=tensor: g + mu * (p.detach() - t))


_seen: list[torch.Tensor] = []


def remembers_the_first_participant(optimizer, received, mu):
    _seen.append(received[0][0].detach().clone())
    strength = mu / len(_seen)
    _add(optimizer, received, lambda p, t: strength * (p - t))


def by_the_norm_of_all(optimizer, received, mu):
    _add(optimizer, received, lambda p, t: mu * (p - t) * min(1.0, float((p - t).norm())))


def needs_every_gradient(optimizer, received, mu):
    def hook(*_: Any) -> None:
        with torch.no_grad():
            for parameter, tensor in received:
                parameter.grad.add_(mu * (parameter - tensor))

    optimizer.register_step_pre_hook(hook)


NEAR, DECLARED = "local_term_holds_near_the_received_model", "local_term_is_the_one_declared"
APART, WHOLE = "participants_do_not_see_each_other", "both_halves_come_nearer_to_what_everybody_wants"
ADDED, OPTIMUM = "correction_is_added_once_to_each_gradient", "control_variates_reach_the_optimum_of_all"
PROXIMAL: list[tuple[Callable[..., None], bool, str, str]] = [
    (repels, True, NEAR, "is its sign wrong"),
    (repels, False, NEAR, "is its sign wrong"),
    (twice_as_strong, True, DECLARED, "check sign and strength"),
    (towards_zero, True, NEAR, "moved the received model"),
    (towards_zero, False, NEAR, "moved the received model"),
    (as_it_is_now, True, DECLARED, "measured from the received model"),
    (as_it_is_now, False, NEAR, "attach changes no step"),
    (not_squared, True, DECLARED, "check sign and strength"),
    (raises, False, NEAR, "RuntimeError: the local half is never called"),
    (raises_at_the_step, False, NEAR, "IndexError"),
    (not_a_number, False, NEAR, "NaN or infinite"),
    (writes_into_what_came, False, NEAR, "changed the tensors"),
    (moves_at_once, False, NEAR, "attach moved the model"),
    (draws, True, NEAR, "global generator"),
    (acts_in_the_backward_pass, True, DECLARED, "check sign and strength"),
    (acts_in_the_backward_pass, False, NEAR, "step pre-hook"),
    (remembers_the_first_participant, False, APART, "remembers"),
    (by_the_norm_of_all, False, APART, "stacked"),
    (needs_every_gradient, True, NEAR, "no exception"),
]


def _fails(strategy: Any, check: str, says: str) -> None:
    with pytest.raises(StrategyCheckError) as caught:
        check_strategy(strategy)
    assert says in caught.value.failures[check]


@pytest.mark.parametrize(
    ("mutant", "declared", "check", "says"),
    PROXIMAL,
    ids=[f"{mutant.__name__}{'' if declared else ', undeclared'}" for mutant, declared, *_ in PROXIMAL],
)
def test_a_broken_local_term_fails(mutant: Callable[..., None], declared: bool, check: str, says: str) -> None:
    _fails(_Prox(change=mutant, declared=declared), check, says)


@dataclass(frozen=True, kw_only=True)
class _ControlFlipped(Scaffold):
    def control(self, current: Any, memory: Any, participant: str) -> Any:
        return {name: -tensor for name, tensor in super().control(current, memory, participant).items()}


@dataclass(frozen=True, kw_only=True)
class _ControlOfAllOnly(Scaffold):
    """Sends c, not c - c_i."""

    def control(self, current: Any, memory: Any, participant: str) -> Any:
        return {name: memory.get(f"c/{name}", torch.zeros(())).expand_as(t).to(t.dtype) * (t.is_floating_point())
                for name, t in current.items() if t.is_floating_point()}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _CountsHeads(Scaffold):
    """c is the plain mean of all c_i, whatever they weigh in the model."""

    def aggregate(self, current: Any, updates: Any, memory: Any) -> Any:
        new, _ = super().aggregate(current, updates, memory)
        equal = [replace(update, weight=1 / len(updates)) for update in updates]
        return new, super().aggregate(current, equal, memory)[1]


@dataclass(frozen=True, kw_only=True)
class _Correct(Scaffold):
    factor: float = 1.0
    once: bool = False

    def correct(self, optimizer: Any, corrections: Any) -> None:
        held = [(parameter, tensor.clone()) for parameter, tensor in corrections]

        def term(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> torch.Tensor:
            out = self.factor * tensor
            if self.once:
                tensor.zero_()
            return out

        _add(optimizer, held, term)


@dataclass(frozen=True, kw_only=True)
class _CannotCorrect(Scaffold):
    def correct(self, optimizer: Any, corrections: Any) -> None:
        raise KeyError("head")


@dataclass(frozen=True, kw_only=True)
class _Ascends(FedSGD):
    """The server's sign is wrong."""

    def aggregate(self, current: Any, updates: Any, memory: Any) -> Any:
        flipped = [
            replace(u, state={n: -t if t.is_floating_point() else t for n, t in u.state.items()}) for u in updates
        ]
        return super().aggregate(current, flipped, memory)


@dataclass(frozen=True, kw_only=True)
class _HalfAHalf(FedAvg):
    """`isinstance(…, LocalHalf)` is false, so nobody would ever call this."""

    def attach(self, optimizer: Any, received: Any) -> None:
        raise AssertionError


@dataclass(frozen=True, kw_only=True)
class _DeclaresOnly(FedAvg):
    @property
    def fit(self) -> Fit:
        return replace(super().fit, proximal=1.0)


@dataclass(frozen=True, kw_only=True)
class _FitsNothing(FedProx):
    mu: float = 0.5

    def fits_learning_rate(self, learning_rate: float) -> None:
        raise ValueError("never")


@dataclass(frozen=True, kw_only=True)
class _FitsBadly(FedProx):
    mu: float = 0.5

    def fits_learning_rate(self, learning_rate: float) -> None:
        raise TypeError("unexpected")


@pytest.mark.parametrize(
    ("strategy", "check", "says"),
    [
        (_ControlFlipped(), OPTIMUM, "check signs in control"),
        (_ControlOfAllOnly(), OPTIMUM, "wanted"),
        (_CountsHeads(), OPTIMUM, "wanted"),
        (_Correct(factor=-1.0), ADDED, "as it was sent"),
        (_Correct(factor=2.0), ADDED, "as it was sent"),
        (_Correct(once=True), ADDED, "as it was sent"),
        (_CannotCorrect(), ADDED, "KeyError"),
        (_Ascends(server_learning_rate=0.5), WHOLE, "is a sign wrong"),
        (_HalfAHalf(), "no_half_is_missing", "got no fits_learning_rate"),
        (_DeclaresOnly(), "no_half_is_missing", "no attach that adds the term"),
        (_FitsNothing(), NEAR, "wanted a learning rate that fits"),
        (_FitsBadly(), NEAR, "got TypeError: unexpected"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_broken_half_fails(strategy: Any, check: str, says: str) -> None:
    _fails(strategy, check, says)


def test_the_right_ones_pass() -> None:
    assert check_strategy(_Correct()) == tuple(_CHECKS)
    for mu in (0.0, 0.5, 40.0):
        assert check_strategy(FedProx(mu=mu)) == tuple(_CHECKS)
    pull = lambda optimizer, received, mu: _add(optimizer, received, lambda p, t: mu * (p - t))  # noqa: E731
    assert check_strategy(_Prox(change=pull, declared=False)) == tuple(_CHECKS)


def test_fedavg_misses_the_optimum_that_control_variates_reach() -> None:
    # Without this the check above would hold for any strategy.
    one, other = quadratics.ONE, quadratics.OTHER
    hessian = (one.curvature + 2 * other.curvature) / 3
    pull = (one.curvature @ one.optimum + 2 * other.curvature @ other.optimum) / 3
    optimum = torch.linalg.solve(hessian, pull)
    plain, _ = quadratics.rounds(FedAvg(), [one, other], quadratics.RECEIVED, count=100)
    corrected, _ = quadratics.rounds(Scaffold(), [one, other], quadratics.RECEIVED, count=100)
    assert (plain - optimum).norm() > 0.01
    assert (corrected - optimum).norm() < 1e-6


def test_every_check_of_the_client_half_has_a_mutant() -> None:
    tested = {check for _, _, check, _ in PROXIMAL} | {WHOLE, ADDED, OPTIMUM, "no_half_is_missing"}
    assert tested == {name for name, check in _CHECKS.items() if check.__module__ == local.__name__}
