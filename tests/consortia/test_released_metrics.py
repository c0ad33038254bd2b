"""Metrics from histograms: against scikit-learn without noise, by hand, and coverage with noise."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    roc_auc_score,
)
from torch import Tensor, nn

from clients import registry
from clients.models import FederatedModule
from clients.schema import Target
from consortia.audit import games
from consortia.coordinator.stopping import should_stop
from consortia.metrics import score_bins
from consortia.metrics.from_histograms import MINIMUM_POSITIVES, calibration, from_histogram
from consortia.participant.metrics_release import measure
from consortia.terms.evaluation import EvaluationTerms, StoppingTerms
from privacy.events import LaplaceRelease
from privacy.observation import Note, observing

BINARY = Target(name="y", kind="binary", classes=("no", "yes"))
REGRESSION = Target(name="y", kind="regression", low=0.0, high=10.0)
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "dp_metrics.py"


def _histogram(target: Target, scores: np.ndarray, labels: np.ndarray, bins: int) -> np.ndarray:
    rows = score_bins.n_rows(target)
    found = np.bincount(score_bins.cells(target, scores, labels, bins), minlength=rows * bins)
    return found.reshape(rows, bins).astype(np.float64)


def test_without_noise_and_with_many_bins_it_is_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    label = (rng.random(5000) < 0.3).astype(float)
    scores = 1 / (1 + np.exp(-rng.normal(1.5 * label - 1.2, 1.2)))
    found = from_histogram(BINARY, _histogram(BINARY, scores, label, 256), 0.0)
    assert found["auc"].value == pytest.approx(roc_auc_score(label, scores), abs=1e-3)
    assert found["auprc"].value == pytest.approx(average_precision_score(label, scores), abs=5e-3)
    assert found["accuracy"].value == pytest.approx(accuracy_score(label, scores >= 0.5), abs=1e-9)
    balanced = balanced_accuracy_score(label, scores >= 0.5)
    assert found["balanced_accuracy"].value == pytest.approx(balanced, abs=1e-9)
    assert found["brier"].value == pytest.approx(brier_score_loss(label, scores), abs=1e-3)
    assert all(e.low <= (e.value or 0) <= e.high and e.high - e.low < 0.06 for e in found.values())


def test_auc_by_hand() -> None:
    # Positives: 60 above, 40 below; negatives: 25 above, 75 below. Pairs: 60 x 75 wins, 60 x 25 + 40 x 75 ties:
    # (4500 + .5 x 4500) / 10000 = .675.
    counts = np.zeros((2, 24))
    counts[1, 20], counts[1, 2], counts[0, 20], counts[0, 2] = 60, 40, 25, 75
    assert from_histogram(BINARY, counts, 0.0)["auc"].value == pytest.approx(0.675)
    # Accuracy: 60 + 75 of 200 right.
    assert from_histogram(BINARY, counts, 0.0)["accuracy"].value == pytest.approx(135 / 200)
    # Each class has 100 rows here. With the negatives ten times, the positives count as before.
    counts[0] *= 10
    assert from_histogram(BINARY, counts, 0.0)["balanced_accuracy"].value == pytest.approx((0.6 + 0.75) / 2)


def test_few_positives_give_an_interval_and_no_point() -> None:
    counts = np.zeros((2, 24))
    counts[0, 4:8], counts[1, 10] = 100, MINIMUM_POSITIVES - 1
    few = from_histogram(BINARY, counts, 0.5)
    assert few["auc"].value is None
    assert 0.9 < few["auc"].low < few["auc"].high <= 1
    counts[1, 10] += 1
    assert from_histogram(BINARY, counts, 0.5)["auc"].value is not None


def test_nothing_but_noise_says_nothing() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        found = from_histogram(BINARY, np.rint(rng.laplace(0, 1, (2, 24))), np.sqrt(2))
        assert all(e.value is None for e in found.values())
        assert found["auc"].high - found["auc"].low > 0.5


def test_a_score_that_is_no_number_is_a_row_like_any_other() -> None:
    cells = score_bins.cells(BINARY, np.array([np.nan, np.inf, 0.5, 0.0, 1.0]), np.array([1.0, 0, 1, 0, 1]), 24)
    assert ((cells >= 0) & (cells < 48)).all()
    assert cells[2] == 24 + 12  # a half is the lower edge of the upper half


def test_regression_errors_by_hand_within_the_bins() -> None:
    error = np.repeat([1.0, 3.0], 100)  # rmse sqrt(5) = 2.236, mae 2
    found = from_histogram(REGRESSION, _histogram(REGRESSION, 5 + error, np.full(200, 5.0), 64), 0.0)
    assert found["rmse"].value == pytest.approx(5**0.5, abs=0.15)
    assert found["mae"].value == pytest.approx(2.0, abs=0.15)
    assert not score_bins.has_bins(Target(name="y", kind="regression"))


def test_multiclass_accuracy_and_calibration() -> None:
    target = Target(name="y", kind="multiclass", classes=("a", "b", "c"))
    scores = np.tile([0.7, 0.2, 0.1], (200, 1))
    labels = np.r_[np.zeros(140), np.ones(60)]
    counts = _histogram(target, scores, labels, 24)
    assert from_histogram(target, counts, 0.0)["accuracy"].value == pytest.approx(0.7)
    (point,) = [p for p in calibration(target, counts, 0.0) if p.low_score <= 0.7 < p.high_score]
    assert point.rate.value == pytest.approx(0.7)


def test_intervals_cover_and_points_are_close() -> None:
    """A small version of benchmarks/dp_metrics.py; with 60 repetitions 83 % is four deviations below 95 %."""
    spec = importlib.util.spec_from_file_location("dp_metrics", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    found = benchmark.measure((400, 0.3, 1.5), 3.0, 60, 24, truth_rows=200_000)
    assert found["error"] < 0.02
    assert min(found["coverage"].values()) >= 0.83


def test_stopping_by_hand() -> None:
    terms = StoppingTerms(metric="auc", patience=2, min_delta=0.01)
    assert not should_stop(terms, [0.7, 0.6])  # patience needs two after the best
    assert should_stop(terms, [0.7, 0.6, 0.705])
    assert not should_stop(terms, [0.7, 0.6, 0.71])
    assert should_stop(terms, [0.7, None, 0.6, None, 0.65])
    brier = StoppingTerms(metric="brier", patience=1)
    assert should_stop(brier, [0.2, 0.2])
    assert not should_stop(brier, [0.2, 0.19])


class _Looked(nn.Module):
    """A partner's network with too high a limit: an id beyond its table is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.items(x[:, 0].clamp(0, 50).long())
        return found


class _Deep(nn.Module):
    """A partner's network that gives each row a dimension too many."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1].unsqueeze(1)


@pytest.mark.parametrize("network", [_Looked, _Deep])
def test_no_row_on_which_a_network_fails_moves_another(network: type[nn.Module]) -> None:
    values = [0, 1, 2, 9]
    target = registry.get("bank").schema.target
    module = FederatedModule(network(), nn.Identity(), nn.Identity(), target)
    x, y = torch.tensor(values).float().unsqueeze(1), torch.arange(len(values)) % 2
    event = LaplaceRelease(noise_multiplier=1.0, partition="evaluation", unit="record")
    evaluation = EvaluationTerms(metrics="dp", bins=8)
    request: Any = SimpleNamespace(industry="bank", contract=SimpleNamespace(evaluation=evaluation))
    terms: Any = SimpleNamespace(unit="record", max_rows_per_unit=None)

    def notes(keep: Tensor) -> list[Note]:
        table = SimpleNamespace(inputs={"features": x[keep]}, target=y[keep], unit_index=np.arange(int(keep.sum())))
        due: Any = SimpleNamespace(event=event)
        parts: Any = SimpleNamespace(test=table)
        with observing() as found:
            measure(due, request, module, parts, terms, "game", games.CONTEXT)
        return list(found)

    every = torch.arange(len(values))
    whole = notes(every >= 0)
    assert max(games.moved(whole, notes(every != left), 1.0) for left in range(len(values))) <= 1
