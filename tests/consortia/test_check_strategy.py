"""Every strategy passes `check_strategy`, and a broken one fails the check that is named after what it breaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from consortia.testing import StrategyCheckError, check_strategy
from consortia.testing import _strategy_local_checks as local
from consortia.testing._strategies import _CHECKS
from strategies.base import Fit, Strategy, Update
from strategies.fedavg import FedAvg
from strategies.fedbuff import FedBuff
from strategies.median import Median
from strategies.registry import NAMES, make
from strategies.scaffold import Scaffold
from strategies.server_optimizer import OPTIMIZERS

OPTIONS: dict[str, dict[str, Any]] = {"fedprox": {"mu": 1.0}, "norm-bound": {"norm": 5.0}}
ALL = {
    **{name: make(name, options=OPTIONS.get(name, {})) for name in NAMES if name != "server-optimizer"},
    **{f"torch {name}": make("server-optimizer", options={"optimizer": name}) for name in OPTIMIZERS},
    "fedavgm": make("fedavg", server_learning_rate=0.5, server_momentum=0.9),
    "norm-bound by contract": make("norm-bound"),
    "norm-bound by the median": make("norm-bound", options={"relative": 1.2}),
    "clusters that split at once": make("clustered", options={"after": 1, "least": 1, "separation": 0.0}),
    "two attackers": make("trimmed-mean", options={"attackers": 2}),
    "krum, two attackers": make("krum", options={"attackers": 2}),
}


@pytest.mark.parametrize("name", ALL)
def test_every_strategy_holds_its_promises(name: str) -> None:
    assert check_strategy(ALL[name]) == tuple(_CHECKS)


@dataclass(frozen=True, kw_only=True)
class _Broken(FedAvg):
    """FedAvg with a fault: `change` gets what FedAvg gave and what it was given."""

    change: Callable[..., Any]

    def aggregate(self, current, updates, memory):
        new, kept = super().aggregate(current, updates, memory)
        return self.change(new, kept, current, updates, memory) or (new, kept)


_calls: list[int] = []


def drops_a_parameter(new, kept, *_):
    new.pop("trunk.scalar")


def everything_in_float32(new, kept, *_):
    return {name: t.float() for name, t in new.items()}, kept


def decays(new, kept, *_):
    return {n: t * 0.99 if t.is_floating_point() else t for n, t in new.items()}, kept


def half_a_step(new, kept, current, *_):
    return {n: (t + current[n]) / 2 if t.is_floating_point() else t for n, t in new.items()}, kept


def takes_the_first(new, kept, current, updates, memory):
    return {n: t.clone() for n, t in updates[0].state.items()}, kept


def ignores_weights(new, kept, current, updates, memory):
    equal = [Update(u.participant, u.state, 1 / len(updates)) for u in updates]
    return FedAvg().aggregate(current, equal, {})


def works_in_place(new, kept, current, *_):
    current["head.weight"].add_(1)


def returns_its_input(new, kept, current, updates, memory):
    return {**new, "trunk.flags": current["trunk.flags"]} if "trunk.flags" in new else new, kept


def counts_its_calls(new, kept, *_):
    _calls.append(1)
    return {n: t + 1e-9 * len(_calls) if t.dtype == torch.float64 else t for n, t in new.items()}, kept


def draws(new, kept, *_):
    torch.rand(1)


def memory_with_python_numbers(new, kept, current, updates, memory):
    return new, {**kept, "round": 3}


def overflows(new, kept, *_):
    return {
        n: (t.double() ** 60 / (t.double() ** 60)).to(t.dtype) if t.numel() == 3 else t for n, t in new.items()
    }, kept


def memory_overflows(new, kept, current, updates, memory):
    old = memory.get("m", torch.ones((), dtype=torch.float64))
    size = torch.stack([u.state["head.weight"].double().abs().max() for u in updates]).max()
    return new, {"m": old * (1 + size) ** 100}


MUTANTS: dict[str, list[Callable[..., Any]]] = {
    "keeps_names_shapes_and_dtypes": [drops_a_parameter, everything_in_float32],
    "unmoved_replies_move_nothing": [decays],
    "equal_updates_are_a_fixed_point": [half_a_step],
    "order_of_replies_does_not_matter": [takes_the_first],
    "weights_do_what_the_fit_says": [ignores_weights],
    "changes_none_of_its_inputs": [works_in_place, returns_its_input],
    "has_no_state_outside_its_memory": [counts_its_calls, draws],
    "memory_survives_a_checkpoint": [memory_with_python_numbers],
    "stays_finite": [overflows, memory_overflows],
}


def _fails(strategy: Strategy, check: str) -> None:
    with pytest.raises(StrategyCheckError) as caught:
        check_strategy(strategy)
    assert check in caught.value.failures
    assert f"  {check}: " in str(caught.value)


@pytest.mark.parametrize(
    ("check", "mutant"),
    [(check, mutant) for check, mutants in MUTANTS.items() for mutant in mutants],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_named_check_rejects_the_mutant(check: str, mutant: Callable[..., Any]) -> None:
    _fails(_Broken(change=mutant), check)


@dataclass(frozen=True, kw_only=True)
class _TakesTwo(Median):
    @property
    def minimum_participants(self) -> int:
        return 2


@dataclass(frozen=True, kw_only=True)
class _TakesFewer(Median):
    def check_enough(self, got: int) -> None:
        del got


@dataclass(frozen=True, kw_only=True)
class _NotRobust(Median):
    """A plain mean that calls itself robust."""

    def aggregate(self, current: Any, updates: Sequence[Update], memory: Any) -> Any:
        self.check_enough(len(updates))
        return FedAvg().aggregate(current, updates, memory)


@dataclass(frozen=True, kw_only=True)
class _ClaimsWeights(Median):
    @property
    def fit(self) -> Fit:
        return Fit(weights="any", per_attacker=2)


@dataclass(frozen=True, kw_only=True)
class _StartsSomewhere(Scaffold):
    def control(self, current: Any, memory: Any, participant: str) -> Any:
        return {n: t + 1 for n, t in super().control(current, memory, participant).items()}


@dataclass(frozen=True, kw_only=True)
class _WideControl(Scaffold):
    def control(self, current: Any, memory: Any, participant: str) -> Any:
        return {n: t.double() for n, t in super().control(current, memory, participant).items()}


@dataclass(frozen=True, kw_only=True)
class _ForgetsStaleness(FedBuff):
    def aggregate(self, current: Any, updates: Sequence[Update], memory: Any) -> Any:
        return super().aggregate(current, [replace(u, staleness=0) for u in updates], memory)


@dataclass(frozen=True, kw_only=True)
class _PrefersStale(FedBuff):
    def staleness_weight(self, staleness: int) -> float:
        return 1.0 + staleness


@pytest.mark.parametrize(
    ("strategy", "check"),
    [
        (_ForgetsStaleness(), "staleness_counts_less_and_less"),
        (_PrefersStale(), "staleness_counts_less_and_less"),
        (_StartsSomewhere(), "control_fits_the_model"),
        (_WideControl(), "control_fits_the_model"),
        (_TakesTwo(), "takes_as_few_as_it_says_and_refuses_fewer"),
        (_TakesFewer(), "takes_as_few_as_it_says_and_refuses_fewer"),
        (_NotRobust(), "withstands_the_attackers_it_names"),
        (_ClaimsWeights(), "weights_do_what_the_fit_says"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_mutant_of_its_own_kind_is_rejected(strategy: Strategy, check: str) -> None:
    _fails(strategy, check)


def test_every_check_has_a_mutant() -> None:
    alone = {
        "control_fits_the_model",
        "staleness_counts_less_and_less",
        "takes_as_few_as_it_says_and_refuses_fewer",
        "withstands_the_attackers_it_names",
    }
    client_half = {name for name, check in _CHECKS.items() if check.__module__ == local.__name__}  # a file of their own
    assert {*MUTANTS, *alone, *client_half} == set(_CHECKS)
