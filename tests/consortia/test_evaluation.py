"""Which metric leads a receipt, which model is better, and the intervals of gains."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from clients.bank import CLIENT as BANK
from clients.linear import CLIENT as LINEAR
from clients.metrics import compute, get
from consortia.participant.evaluation import better, gain_interval, headline


def test_better_knows_direction_and_none() -> None:
    assert better("auc", 0.8, 0.7)
    assert better("rmse", 0.1, 0.2)
    assert not better("auc", None, None)
    assert not better("auc", None, 0.1)
    assert better("auc", 0.1, None)


def test_the_first_metric_of_the_industry_that_the_rows_define_leads() -> None:
    both, one, none = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]), torch.zeros(0)
    assert [headline(BANK, target) for target in (both, one, none)] == ["auc", "accuracy", "auc"]
    turned = dataclasses.replace(BANK, metrics=("brier", "auc"))
    assert [headline(turned, target) for target in (both, one)] == ["brier", "brier"]
    line = dataclasses.replace(LINEAR, metrics=("r2", "mae"))
    assert [headline(line, target) for target in (both, one)] == ["r2", "mae"]
    assert headline(BANK.measuring(("log_loss",)), both) == "log_loss"


KINDS = {"binary": ("auc", "auprc", "accuracy", "brier", "ece", "log_loss"), "regression": ("rmse", "mae", "r2")}


@pytest.mark.parametrize(("kind", "metric"), [(k, m) for k, metrics in KINDS.items() for m in metrics])
def test_the_gain_of_each_metric_is_that_metrics_own(kind: str, metric: str) -> None:
    # Every metric but AUC and accuracy once got the interval of the RMSE.
    rng = np.random.default_rng(0)
    target = (rng.random(300) < 0.3).astype(float) if kind == "binary" else rng.normal(size=300)
    good = (
        np.clip(target * 0.5 + rng.random(300) * 0.5, 0, 1) if kind == "binary" else target + 0.1 * rng.normal(size=300)
    )
    poor = np.clip(target * 0.1 + rng.random(300) * 0.6, 0, 1) if kind == "binary" else target + rng.normal(size=300)
    table: Any = SimpleNamespace(measured=target, unit_index=np.arange(300), n_units=300)
    gain = gain_interval(metric, good, poor, table, "one")
    assert gain is not None
    values = [compute([metric], kind, scores, target)[metric] for scores in (good, poor)]
    assert None not in values
    difference = float(values[0]) - float(values[1])  # type: ignore[arg-type]
    assert gain.value == pytest.approx(get(metric).sign * difference, abs=1e-9)
    assert gain.low < gain.value < gain.high


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "macro_auc"])
def test_several_classes_have_intervals(metric: str) -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, 200)
    good, poor = (np.eye(3)[target] * strength + rng.random((200, 3)) for strength in (1.5, 0.3))
    good, poor = good / good.sum(1, keepdims=True), poor / poor.sum(1, keepdims=True)
    table: Any = SimpleNamespace(measured=target, unit_index=np.arange(200), n_units=200)
    gain = gain_interval(metric, good, poor, table, "one")
    assert gain is not None
    assert 0 < gain.low < gain.value < gain.high
