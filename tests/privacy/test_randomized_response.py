"""Randomised response: its law, its account, and the two events of the vertical mode."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_contexts import TEST

from privacy.accounting import epsilon, merge, rdp
from privacy.dp_logistic import replace_noise, train_logistic
from privacy.errors import BudgetExhaustedError, PlanError, UnknownEventError
from privacy.events import (
    Event,
    GaussianRelease,
    RandomizedResponse,
    ReplaceGaussian,
    event_from_json,
    event_to_json,
    relation_of,
)
from privacy.ledger import Budget, Ledger, RunPlan
from privacy.randomized_response import keep_probability, respond
from privacy.randomness import KeyStream, fresh_generator, seeded_generator


def label(epsilon_: float, count: int = 1, rows: int = 1) -> RandomizedResponse:
    return RandomizedResponse(
        what="label", epsilon=epsilon_, classes=2, count=count, rows_per_unit=rows, partition="train", unit="record"
    )


@pytest.mark.parametrize(("classes", "eps"), [(2, 1.0), (2, 4.0), (4, 2.0), (64, 3.0)])
def test_the_law_is_that_of_randomised_response(classes: int, eps: float) -> None:
    n = 40_000
    values = np.arange(n) % classes
    out = respond(values, classes, eps, entropy=KeyStream(TEST).bytes)
    kept = keep_probability(eps, classes)
    assert kept == pytest.approx(math.exp(eps) / (math.exp(eps) + classes - 1))
    assert abs((out == values).mean() - kept) < 4 * math.sqrt(kept * (1 - kept) / n)
    # The others are equally likely: the worst ratio of two outputs' probabilities is e^eps, never more.
    steps = np.bincount((out.astype(int) - values) % classes, minlength=classes)[1:] / n
    other = (1 - kept) / (classes - 1)
    assert (np.abs(steps - other) < 5 * math.sqrt(other / n)).all()


def test_the_keep_probability_is_never_above_its_law() -> None:
    # All-zero entropy keeps, all-one entropy does not: the threshold is where the law says, rounded down.
    assert respond(np.ones(3, int), 2, 1.0, entropy=lambda size: b"\x00" * size).tolist() == [1, 1, 1]
    edge = int(keep_probability(1.0, 2) * 2**64).to_bytes(8, "little")
    assert respond(np.ones(1, int), 2, 1.0, entropy=lambda _: edge).tolist() == [0]


def test_infinite_epsilon_is_the_value_itself_and_bad_input_is_refused() -> None:
    assert respond(np.array([0, 1]), 2, math.inf, entropy=os.urandom).tolist() == [0, 1]
    for bad in (
        lambda: respond(np.array([2]), 2, 1.0, entropy=os.urandom),
        lambda: respond(np.array([0]), 2, 0.0, entropy=os.urandom),
        lambda: label(-1.0),
    ):
        with pytest.raises(PlanError):
            bad()


def test_pure_epsilons_add_up_exactly_and_need_no_delta() -> None:
    # 2 releases at 1.5 and one at .25 where a person may have 3 rows: 2 * 1.5 + 3 * .25 = 3.75
    events: list[Event] = [label(1.5, count=2), label(0.25, rows=3)]
    assert epsilon(events, 0.0) == epsilon(events, 1e-5) == 3.75
    # Beside a Gaussian release: basic composition.
    score = RandomizedResponse(what="score", epsilon=2.0, classes=4, partition="train", unit="record")
    model = ReplaceGaussian(noise_multiplier=3.0, count=5, partition="train", unit="record")
    assert epsilon([score, model], 1e-5) == pytest.approx(2.0 + epsilon([model], 1e-5))
    assert epsilon([model], 1e-5) == pytest.approx(
        epsilon([GaussianRelease(noise_multiplier=3.0, count=5, partition="train", unit="record")], 1e-5)
    )
    with pytest.raises(PlanError, match="delta"):
        epsilon([score, model], 0.0)
    assert rdp([label(0.1)], (2,)).tolist() == pytest.approx([0.01])  # alpha eps^2 / 2


def test_relations_are_never_mixed() -> None:
    score = RandomizedResponse(what="score", epsilon=2.0, classes=4, partition="train", unit="record")
    with pytest.raises(PlanError, match="one relation"):
        merge([label(1.0), score])


def test_events_say_their_relation_and_survive_json() -> None:
    model = ReplaceGaussian(noise_multiplier=3.0, count=5, partition="train", unit="record")
    for event, relation in ((label(1.0), "change_one_label"), (model, "replace_one_row")):
        text = json.dumps(event_to_json(event))
        assert relation_of(event) == json.loads(text)["relation"] == relation
        assert event_from_json(json.loads(text)) == event
        with pytest.raises(UnknownEventError, match="relation"):
            event_from_json({**json.loads(text), "relation": "add_or_remove_one"})


def test_a_second_label_message_within_the_budget_is_charged_and_one_beyond_is_not_possible(ledger_path: Path) -> None:
    ledger = Ledger.open(ledger_path, "hospital-a")

    def plan(run: str) -> RunPlan:
        return RunPlan(
            run_id=run,
            dataset="customers/labels",
            contract_sha256="0" * 64,
            unit="record",
            declared_units=100,
            allowance=Budget(2.0, 0.0),
            noise_multiplier=0.0,
            sampling_rate=1.0,
            steps_per_round=1,
            rounds=1,
            clip=1.0,
            non_private=False,
            other_events=(label(2.0),),
            listed=True,
        )

    life = Budget(4.0, 0.0)
    for run in ("a", "b"):
        assert ledger.open_run(plan(run), life) == plan(run)
        ledger.commit(ledger.reserve(run, 1, "k", [label(2.0)], lifetime=life), b"bits")
    assert ledger.spent("customers/labels", 0.0) == 4.0
    with pytest.raises(BudgetExhaustedError):
        ledger.reserve("a", 2, "k", [label(2.0)], lifetime=life)
    ledger.open_run(plan("c"), life)
    with pytest.raises(BudgetExhaustedError):
        ledger.reserve("c", 1, "k", [label(2.0)], lifetime=life)
    ledger.close()


def test_dp_logistic_learns_and_its_noise_is_what_it_says() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (4000, 3))
    y = (rng.random(4000) < 1 / (1 + np.exp(-3 * x[:, 0]))).astype(int)
    weights = train_logistic(x, y, noise_multiplier=1e-6, steps=200, generator=seeded_generator("a"), clip=10.0)
    assert weights[0] == pytest.approx(3, abs=0.35)
    assert np.abs(weights[1:]).max() < 0.3
    z = replace_noise(epsilon=1.0, delta=1e-5, releases=50)
    event = ReplaceGaussian(noise_multiplier=z, count=50, partition="train", unit="record")
    assert 0.98 < epsilon([event], 1e-5) <= 1.0
    private = train_logistic(x, y, noise_multiplier=z, steps=50, generator=fresh_generator(TEST))
    assert private[0] > 0.5
    # One step from zero with rows that have no gradient left: only noise, of standard deviation rate z 2C / n.
    draws = [
        train_logistic(
            np.zeros((1, 1)), np.zeros(1, int), noise_multiplier=1.0, steps=1, generator=g, clip=1e-9, rate=1.0
        )
        for g in [seeded_generator("n", i) for i in range(300)]
    ]
    assert np.std([d[0] for d in draws]) == pytest.approx(2e-9, rel=0.15)
    with pytest.raises(PlanError):
        train_logistic(x, y, noise_multiplier=1.0, steps=1, generator=torch.default_generator)
