"""A public call with an argument of a wrong type names it, and shows no value of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from dp_step import Model, plan, rows, sgd, squared

from clients.errors import SchemaError
from clients.schema import Column, Schema, Target
from consortia import Run, run, train
from consortia.common.errors import ArgumentError
from consortia.testing import check_client, check_metric
from consortia_plugins.arguments import named_arguments
from privacy import accounting
from privacy.central import CentralPlan
from privacy.dp_sgd import train_private
from privacy.errors import PlanError
from privacy.histogram import plan_noise
from privacy.randomness import fresh_generator

SECRET = "4711-of-a-row"


def _train(**changes: Any) -> Any:
    inputs, target = rows()
    given: dict[str, Any] = {"inputs": inputs, "target": target, "unit_index": torch.arange(12), "n_units": 12}
    given |= {"loss": squared, "make_optimizer": sgd(), "plan": plan(), "generator": fresh_generator()} | changes
    return train_private(Model(), **given)


_CENTRAL: dict[str, Any] = {"clip": 1.0, "sampling_rate": 0.5, "units": 9}
CALLS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "rate": (lambda: plan(sampling_rate=SECRET), PlanError, "sampling_rate"),
    "delta": (lambda: accounting.epsilon([], [SECRET]), PlanError, "delta"),  # type: ignore[arg-type]
    "events": (lambda: accounting.epsilon(3, 1e-5), PlanError, "events"),  # type: ignore[arg-type]
    "order": (lambda: accounting.rdp_to_epsilon(1.0, 1, 1e-5), PlanError, "order"),
    "noise": (
        lambda: CentralPlan(noise_multiplier=SECRET, clip=1.0, sampling_rate=0.5, units=9),
        PlanError,
        "noise_multiplier",
    ),  # type: ignore[arg-type]
    "epsilon": (lambda: plan_noise(epsilon=None, delta=1e-5, releases=1), PlanError, "epsilon"),  # type: ignore[arg-type]
    "inputs": (lambda: _train(inputs=[SECRET]), PlanError, "inputs"),
    "unit_index": (lambda: _train(unit_index=np.array([SECRET])), PlanError, "unit_index"),
    "column": (lambda: Column(name="age", dtype="number", low=SECRET, high=9.0), SchemaError, "low"),  # type: ignore[arg-type]
    "classes": (lambda: Target(name="y", kind="binary", classes=2), SchemaError, "classes"),  # type: ignore[arg-type]
    "schema": (lambda: Schema(name="s", version=1, columns=None, target=None), SchemaError, "columns"),  # type: ignore[arg-type]
    "train": (lambda: train(SECRET, target="y"), ArgumentError, "participants"),  # type: ignore[arg-type]
    "frame": (lambda: train([pd.DataFrame({"a": [SECRET]})], target="y"), ArgumentError, "participants"),  # type: ignore[list-item]
    "run": (lambda: run(None), ArgumentError, "scenario"),  # type: ignore[arg-type]
    "folder": (lambda: Run(3), ArgumentError, "folder"),  # type: ignore[arg-type]
    "client": (lambda: check_client(SECRET), ArgumentError, "client"),  # type: ignore[arg-type]
    "metric": (lambda: check_metric(None), ArgumentError, "metric"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", CALLS)
def test_the_argument_is_named_and_its_value_is_not_shown(name: str) -> None:
    call, error, parameter = CALLS[name]
    with pytest.raises(error, match=rf"\b{parameter}\b.*wanted|wanted.*\b{parameter}\b") as raised:
        call()
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_an_error_that_no_argument_explains_stays_what_it_is() -> None:
    @named_arguments(PlanError)
    def breaks(number: int) -> int:
        return number + len(number * (None,)) // 0  # type: ignore[operator]

    with pytest.raises(ZeroDivisionError):
        breaks(2)
    with pytest.raises(PlanError, match="number: wanted int, got a value of type str"):
        breaks("2")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing"):
        breaks()  # type: ignore[call-arg]
