"""Every metric against scikit-learn, and None wherever it is not defined."""

from __future__ import annotations

import numpy as np
import pytest

from clients.metrics import HIGHER_IS_BETTER, compute, names


def rows(seed: int, *, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = (generator.random(300) < 0.3).astype(float)
    s = np.clip(generator.normal(0.4 + 0.2 * y, 0.2), 0.1, 0.9)
    return (s.round(1) if ties else s), y


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_binary_metrics_are_scikit_learns(seed, ties):
    from sklearn import metrics

    s, y = rows(seed, ties=ties)
    ours = compute(names("binary"), "binary", s, y)
    theirs = {
        "auc": metrics.roc_auc_score(y, s),
        "auprc": metrics.average_precision_score(y, s),
        "accuracy": metrics.accuracy_score(y, s >= 0.5),
        "brier": metrics.brier_score_loss(y, s),
        "log_loss": metrics.log_loss(y, s),
    }
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name


def test_calibration_error_by_hand():
    # Two bins: three rows at .25 with one positive, one row at .85 without.
    got = compute(["ece"], "binary", [0.25, 0.25, 0.25, 0.85], [1, 0, 0, 0])["ece"]
    assert got == pytest.approx((abs(0.75 - 1) + 0.85) / 4)
    assert compute(["ece"], "binary", [0.0, 1.0, 1.0], [0, 1, 1])["ece"] == 0


def test_multiclass_metrics_are_scikit_learns():
    from sklearn import metrics

    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 200)
    s = generator.dirichlet([1, 1, 1], 200) * 0.7 + 0.3 * np.eye(3)[y]
    ours = compute(names("multiclass"), "multiclass", s, y)
    assert ours["accuracy"] == pytest.approx(metrics.accuracy_score(y, s.argmax(1)))
    assert ours["macro_auc"] == pytest.approx(metrics.roc_auc_score(y, s, multi_class="ovr"))
    assert ours["log_loss"] == pytest.approx(metrics.log_loss(y, s))
    assert compute(["macro_auc"], "multiclass", s, np.minimum(y, 1))["macro_auc"] is None


def test_regression_metrics_are_scikit_learns():
    from sklearn import metrics

    generator = np.random.default_rng(0)
    y = generator.normal(size=100)
    s = y + generator.normal(size=100)
    ours = compute(names("regression"), "regression", s, y)
    assert ours["rmse"] == pytest.approx(metrics.root_mean_squared_error(y, s))
    assert ours["mae"] == pytest.approx(metrics.mean_absolute_error(y, s))
    assert ours["r2"] == pytest.approx(metrics.r2_score(y, s))
    assert compute(["r2"], "regression", [1.0, 2.0], [3.0, 3.0])["r2"] is None


@pytest.mark.parametrize("only", [0.0, 1.0])
def test_one_class_has_no_auc_and_has_an_accuracy(only):
    got = compute(names("binary"), "binary", [0.2, 0.9], [only, only])
    assert got["auc"] is None
    assert got["auprc"] is None
    assert got["accuracy"] == 0.5
    assert all(value is None or np.isfinite(value) for value in got.values())


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_no_rows_and_scores_that_are_no_numbers_give_none(kind):
    shape = (2, 3) if kind == "multiclass" else (2,)
    nothing = compute(names(kind), kind, np.zeros((0, *shape[1:])), [])
    broken = compute(names(kind), kind, np.full(shape, np.nan), [0, 1])
    assert set(nothing.values()) == set(broken.values()) == {None}


def test_certain_and_wrong_is_finite():
    assert np.isfinite(compute(["log_loss"], "binary", [0.0, 1.0], [1, 0])["log_loss"])


def test_every_metric_says_which_way_is_better():
    every = {name for kind in ("binary", "multiclass", "regression") for name in names(kind)}
    assert set(HIGHER_IS_BETTER) == every
    assert HIGHER_IS_BETTER["auc"]
    assert not HIGHER_IS_BETTER["rmse"]


def test_an_unknown_metric_is_a_key_error():
    with pytest.raises(KeyError, match="f1"):
        compute(["f1"], "binary", [0.5], [1])
