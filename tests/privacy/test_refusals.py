"""What this room refuses before anything leaves, each by name: mixed units, losses that mix rows, what leaves twice."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from privacy import _chain, central
from privacy._composition import _TWO_ROWS, Composition, known
from privacy._conditions import check_layers
from privacy.accounting import merge, rdp_to_epsilon
from privacy.bookkeeping import BookKeeping
from privacy.central import CentralPlan, noisy_mean
from privacy.dp_logistic import train_logistic
from privacy.egress import Release, gate
from privacy.errors import LedgerBrokenError, LedgerSchemaError, PlanError, ReleaseRefusedError, UnknownEventError
from privacy.events import GaussianRelease, RandomizedResponse, event_from_json
from privacy.filters import run_epsilon_bound
from privacy.noise_context import NoiseContext
from privacy.plans import Budget, plan_from_json
from privacy.randomized_response import keep_probability, respond
from privacy.randomness import seeded_generator
from privacy.secure_sum.fixed_point import FixedPoint

TRAIN: dict[str, Any] = {"partition": "train", "unit": "record"}
CONTEXT = NoiseContext(purpose="test", message="test", attempt=1, ledger="0" * 64)


def release(multiplier: float = 9.0, **changes: Any) -> GaussianRelease:
    return GaussianRelease(noise_multiplier=multiplier, **{"partition": "evaluation", "unit": "record", **changes})


def composition(module: nn.Module) -> Composition:
    found = known(module)
    assert isinstance(found, Composition)
    return found


def answers(values: Any) -> Any:
    """Randomised response, which must refuse before it draws."""
    return respond(np.array(values), 2, 1.0, entropy=lambda count: pytest.fail(f"{count} bytes were drawn"))


def large_sum() -> Any:
    changes = (torch.zeros(2) for _ in range(3))
    plan = CentralPlan(noise_multiplier=1.0, clip=1.0, sampling_rate=1.0, units=2)
    return noisy_mean(changes, 2, plan, seeded_generator("refusals"))


def crowded_share() -> Any:
    point = FixedPoint(noise=4.0, clip=1.0, smallest_clip=1.0, dimension=1, rows=10, colluders=1)
    return point.encode(np.zeros(1), 10**9, 64, CONTEXT)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "units": (lambda: merge([release(), release(unit="patient")]), PlanError, "one privacy unit"),
    "order": (lambda: rdp_to_epsilon(1.0, 1, 1e-5), PlanError, "order > 1"),
    "divergence": (lambda: rdp_to_epsilon(float("nan"), 2, 1e-5), PlanError, "divergence >= 0"),
    "no event": (lambda: event_from_json([]), UnknownEventError, "a mapping, got list"),  # type: ignore[arg-type]
    "what": (lambda: RandomizedResponse(what="rank", epsilon=1.0, classes=2, **TRAIN), PlanError, '"label" or "score"'),
    "classes": (lambda: keep_probability(1.0, 1), PlanError, "2 or more"),
    "above": (lambda: answers([0, 2]), PlanError, "in 0..1"),
    "below": (lambda: answers([-1, 0]), PlanError, "in 0..1"),
    "stored plan": (lambda: plan_from_json({"run_id": "run-1"}), LedgerSchemaError, "cannot read the stored plan"),
    "export": (lambda: _chain.verify_export({"participant": "a"}), LedgerBrokenError, "keys of a ledger's export"),
    "max_norm": (lambda: check_layers(nn.Embedding(3, 2, max_norm=1.0)), PlanError, "past the clipping"),
    "frozen": (lambda: check_layers(nn.Tanh()), PlanError, "one trainable parameter"),
    "broadcast": (lambda: _TWO_ROWS[operator.add](torch.ones(3, 1), torch.ones(3)), PlanError, "of one shape in a sum"),
    "copy": (lambda: deepcopy(composition(nn.Linear(2, 1))), PlanError, "bound to its module"),
    "book-keeping": (lambda: BookKeeping(nn.LSTM(2, 2), []), PlanError, "does not fit it"),
    "x and y": (
        lambda: train_logistic(
            np.zeros((3, 1)), np.zeros(2), noise_multiplier=1.0, steps=1, generator=seeded_generator("refusals")
        ),
        PlanError,
        "x and y: wanted shapes",
    ),
    "too many members": (crowded_share, PlanError, "too many members"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name(name: str) -> None:
    attempt, error, told = REFUSED[name]
    with pytest.raises(error, match=told):
        attempt()


def test_more_changes_than_rounding_is_proved_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    large_sum()
    monkeypatch.setattr(central, "MAX_ROWS", 2)
    with pytest.raises(PlanError, match="at most 2 of them, got 3"):
        large_sum()


@pytest.mark.parametrize(
    ("header", "names", "event", "told"),
    [
        ({"rows": "7"}, ["metrics.a"], release(), "header keys without an event: rows"),
        ({}, ["metrics.a", "metrics.a"], release(), "would leave twice"),
        ({}, ["metrics.a"], release(partition="train"), "of the train partition cannot back it"),
        ({}, ["metrics.a"], RandomizedResponse(what="label", epsilon=1.0, classes=2, **TRAIN), "cannot back it"),
    ],
)
def test_the_gate_refuses_the_whole_reply(header: dict[str, str], names: list[str], event: Any, told: str) -> None:
    releases = [Release("metrics", {name: torch.zeros(1)}, event) for name in names]
    charged = [event] * len(names)
    with pytest.raises(ReleaseRefusedError, match=told):
        gate(releases, header, allowed=["metrics"], charged=charged, shared=[], measured=["metrics.a"])


def test_a_plan_counts_by_one_unit_and_what_it_lists_once_is_taken_once(make_plan: Any) -> None:
    bare: dict[str, Any] = {"non_private": True, "allowance": Budget(math.inf, 1e-5)}
    with pytest.raises(PlanError, match="'record' in every event of the run, got 'patient'"):
        make_plan(**bare, other_events=(release(unit="patient"),))
    with pytest.raises(ReleaseRefusedError, match="lists once was taken already"):
        run_epsilon_bound(make_plan(**bare, once_events=(release(),)), [release(), release()])
