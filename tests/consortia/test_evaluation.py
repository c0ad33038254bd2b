"""Intervals and AUCs of the receipt against scikit-learn and a case worked by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from clients.metrics import HIGHER_IS_BETTER, compute
from consortia.participant.evaluation import better, gain_interval, weighted_auc


def test_weighted_auc_equals_scikit_learn_with_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 8, 60).astype(float)
        target = (rng.random(60) < 0.3).astype(float)
        target[:2] = (0, 1)
        weights = np.vstack([np.ones(60), rng.integers(0, 3, 60)])
        weights[1, :2] = 1
        got = weighted_auc(scores, target, weights.astype(float))
        for value, weight in zip(got, weights, strict=True):
            assert value == pytest.approx(roc_auc_score(target, scores, sample_weight=weight), abs=1e-12)


def test_weighted_auc_by_hand() -> None:
    # Positives .8 and .4, negatives .4 and .2: pairs (.8>.4), (.8>.2), (.4=.4 half), (.4>.2): 3.5 / 4.
    got = weighted_auc(np.array([0.8, 0.4, 0.4, 0.2]), np.array([1.0, 1, 0, 0]), np.ones((1, 4)))
    assert got[0] == 3.5 / 4


def test_one_class_has_no_auc() -> None:
    assert np.isnan(weighted_auc(np.array([0.1, 0.2]), np.array([1.0, 1]), np.ones((1, 2)))[0])


def test_better_knows_direction_and_none() -> None:
    assert better("auc", 0.8, 0.7)
    assert better("rmse", 0.1, 0.2)
    assert not better("auc", None, None)
    assert not better("auc", None, 0.1)
    assert better("auc", 0.1, None)


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
    table: Any = SimpleNamespace(target=target, unit_index=np.arange(300), n_units=300)
    gain = gain_interval(metric, good, poor, table, "one")
    assert gain is not None
    values = [compute([metric], kind, scores, target)[metric] for scores in (good, poor)]
    assert None not in values
    difference = float(values[0]) - float(values[1])  # type: ignore[arg-type]
    assert gain.value == pytest.approx(difference if HIGHER_IS_BETTER[metric] else -difference, abs=1e-9)
    assert gain.low < gain.value < gain.high


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "macro_auc"])
def test_several_classes_have_intervals(metric: str) -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, 200)
    good, poor = (np.eye(3)[target] * strength + rng.random((200, 3)) for strength in (1.5, 0.3))
    good, poor = good / good.sum(1, keepdims=True), poor / poor.sum(1, keepdims=True)
    table: Any = SimpleNamespace(target=target, unit_index=np.arange(200), n_units=200)
    gain = gain_interval(metric, good, poor, table, "one")
    assert gain is not None
    assert 0 < gain.low < gain.value < gain.high
