"""Every metric against scikit-learn, weighted too; None where it is not defined; intervals over units."""

from __future__ import annotations

import numpy as np
import pytest

from clients import metrics
from clients.errors import MetricError, SchemaError
from clients.linear import CLIENT as LINEAR
from clients.metrics import Interval, Metric, by_row, by_sample, compute, get, label, paired_bootstrap


def names(kind: str) -> tuple[str, ...]:
    return tuple(name for name in metrics.names() if kind in get(name).kinds)


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
        "balanced_accuracy": metrics.balanced_accuracy_score(y, s >= 0.5),
        "macro_f1": metrics.f1_score(y, s >= 0.5, average="macro"),
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
    assert ours["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, s.argmax(1)))
    assert ours["macro_f1"] == pytest.approx(metrics.f1_score(y, s.argmax(1), average="macro"))
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


THEIRS = {
    "auc": lambda m, y, s, w: m.roc_auc_score(y, s, sample_weight=w),
    "auprc": lambda m, y, s, w: m.average_precision_score(y, s, sample_weight=w),
    "accuracy": lambda m, y, s, w: m.accuracy_score(y, s >= 0.5, sample_weight=w),
    "balanced_accuracy": lambda m, y, s, w: m.balanced_accuracy_score(y, s >= 0.5, sample_weight=w),
    "macro_f1": lambda m, y, s, w: m.f1_score(y, s >= 0.5, average="macro", sample_weight=w),
    "brier": lambda m, y, s, w: m.brier_score_loss(y, s, sample_weight=w),
    "log_loss": lambda m, y, s, w: m.log_loss(y, s, sample_weight=w),
}


@pytest.mark.parametrize("name", THEIRS)
def test_weights_count_as_scikit_learns_do(name):
    from sklearn import metrics as theirs

    s, y = rows(4, ties=True)
    weights = np.random.default_rng(4).integers(0, 4, (3, len(y))).astype(float)
    wanted = [THEIRS[name](theirs, y, s, one) for one in weights]
    assert get(name).values(s, y, weights) == pytest.approx(np.array(wanted), abs=1e-9)


def test_weighted_metrics_of_values_are_scikit_learns():
    from sklearn import metrics as theirs

    generator = np.random.default_rng(5)
    y, weights = generator.normal(size=80), generator.integers(0, 4, (3, 80)).astype(float)
    s = y + generator.normal(size=80)
    for name, function in (
        ("rmse", theirs.root_mean_squared_error),
        ("mae", theirs.mean_absolute_error),
        ("r2", theirs.r2_score),
    ):
        wanted = [function(y, s, sample_weight=one) for one in weights]
        assert get(name).values(s, y, weights) == pytest.approx(np.array(wanted)), name


def test_a_class_that_is_not_there_counts_in_neither_mean():
    # Codes 0 and 2 of four: recalls 1 and 1/2; 1 is called once, 3 never. F1: 2/2, 0, 2/3.
    scores, codes = np.eye(4)[[0, 2, 1]], np.array([0, 2, 2])
    got = compute(["balanced_accuracy", "macro_f1"], "multiclass", scores, codes)
    assert got["balanced_accuracy"] == pytest.approx(3 / 4)
    assert got["macro_f1"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert compute(["balanced_accuracy"], "binary", [0.2, 0.9], [1, 1])["balanced_accuracy"] is None


@pytest.mark.parametrize("ties", [False, True])
def test_concordance_counts_every_pair(ties):
    generator = np.random.default_rng(6)
    y = generator.normal(size=70).round(1 if ties else 9)
    s = (y + generator.normal(size=70)).round(0 if ties else 9)
    weights = generator.integers(0, 4, (3, 70)).astype(float)
    found = get("concordance").values(s, y, weights)
    for one, value in zip(weights, found, strict=True):
        pairs = np.outer(one, one) * (y[:, None] > y)
        right = (s[:, None] > s) + 0.5 * (s[:, None] == s)
        assert value == pytest.approx((pairs * right).sum() / pairs.sum(), abs=1e-12)


def test_concordance_of_two_values_is_the_auc_and_of_one_there_is_none():
    s, y = rows(7, ties=True)
    assert get("concordance").value(s, y) == pytest.approx(get("auc").value(s, y), abs=1e-12)
    assert get("concordance").value([1.0, 2.0], [3.0, 3.0]) is None


def test_a_sample_of_one_class_has_no_auc_beside_one_that_has():
    s, y = np.array([0.8, 0.4, 0.4, 0.2]), np.array([1.0, 1, 0, 0])
    # Positives .8 and .4, negatives .4 and .2: pairs (.8>.4), (.8>.2), (.4=.4 half), (.4>.2): 3.5 / 4.
    found = get("auc").values(s, y, np.array([[1.0, 1, 1, 1], [1, 1, 0, 0]]))
    assert found[0] == 3.5 / 4
    assert np.isnan(found[1])
    assert np.isnan(get("r2").values(s, y, np.array([[2.0, 1, 0, 0]]))[0])


def test_every_metric_says_which_way_is_better_and_how_it_is_called():
    kinds = ("binary", "multiclass", "multilabel", "regression")
    assert {name for kind in kinds for name in names(kind)} == set(metrics.names())
    assert (get("auc").sign, get("rmse").sign) == (1, -1)
    assert (label("r2"), label("no longer known"), label("")) == ("R²", "no longer known", "")


def test_an_unknown_metric_and_one_of_other_targets_are_sentences():
    with pytest.raises(MetricError, match=r"wanted one of auc, .*got 'accurate' \(did you mean 'accuracy'\?\)"):
        compute(["accurate"], "binary", [0.5], [1])
    with pytest.raises(
        MetricError, match=r"wanted a metric of binary targets, such as auc, .*, got 'r2', which is for regr"
    ):
        compute(["r2"], "binary", [0.5], [1])
    with pytest.raises(MetricError, match="client 'linear': metrics: wanted a metric of regression"):
        type(LINEAR)(**{**vars(LINEAR), "metrics": ("rmse", "auc")})
    with pytest.raises(SchemaError, match="at least one"):
        type(LINEAR)(**{**vars(LINEAR), "metrics": ()})


def made(**changes) -> Metric:
    fields = {"name": "miss", "label": "miss", "better": "lower", "kinds": ("regression",)}
    return Metric(**{**fields, "weighted": by_row(lambda s, y: np.abs(s - y)), **changes})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "F1 score"}, "name: wanted small letters"),
        ({"label": " "}, "label: wanted a text"),
        ({"better": "up"}, "better: wanted 'higher' or 'lower', got 'up'"),
        ({"kinds": ("ranking",)}, "kinds: wanted some of"),
        ({"kinds": ()}, "kinds: wanted some of"),
    ],
)
def test_a_metric_that_is_none_is_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        made(**changes)


def test_a_function_that_fails_gives_no_value_and_the_log_has_no_row(caplog):
    def fails(scores, target, weights):
        raise RuntimeError(f"a row of {target[0]}")

    s, y = np.array([1.0, 2.0]), np.array([42.5, 43.5])
    assert made(weighted=fails).value(s, y) is None
    assert made(weighted=lambda *_: np.zeros(7)).value(s, y) is None
    assert made(weighted=lambda *_: np.array([np.inf])).value(s, y) is None
    assert made(interval=fails).gain(s, s, y, [0, 1], np.random.default_rng(0)) is None
    assert "RuntimeError" in caplog.text
    assert "42.5" not in caplog.text


def test_a_function_of_one_sample_sees_the_rows_that_are_there():
    seen = []

    def largest(scores, target, weights):
        seen.append((len(scores), weights.sum()))
        return float(scores.max()) if len(scores) > 1 else None

    weighted = by_sample(largest)
    found = weighted(np.array([1.0, 5.0, 2.0]), np.zeros(3), np.array([[1.0, 0, 2], [0, 3, 0], [0, 0, 0]]))
    assert found[0] == 2.0
    assert np.isnan(found[1:]).all()
    assert seen == [(2, 3.0), (1, 3.0)]


def test_an_interval_is_over_units_not_rows():
    generator = np.random.default_rng(0)
    y = generator.normal(size=60)
    left, right = y + 0.5 * generator.normal(size=60), y + generator.normal(size=60)
    metric, units = get("rmse"), np.arange(60)
    alone = metric.gain(left, right, y, units, np.random.default_rng(1))
    many = metric.gain(*(np.repeat(each, 20) for each in (left, right, y, units)), np.random.default_rng(1))
    assert alone.value > 0
    assert many == Interval(*(pytest.approx(each) for each in (alone.value, alone.low, alone.high)))


def test_an_interval_of_many_rows_is_drawn_in_pieces(monkeypatch):
    generator = np.random.default_rng(0)
    y = (generator.random(200) < 0.4).astype(float)
    left, right = generator.random(200), generator.random(200)
    whole = paired_bootstrap(get("auc"), left, right, y, np.arange(200), np.random.default_rng(3))
    monkeypatch.setattr("clients.metrics.metric._AT_ONCE", 1000)
    assert paired_bootstrap(get("auc"), left, right, y, np.arange(200), np.random.default_rng(3)) == whole


def test_a_metric_may_have_an_interval_of_its_own():
    own = made(interval=lambda metric, left, *_: Interval(1.0, 0.0, float(len(left))))
    assert own.gain([1.0], [2.0], [3.0], [0], np.random.default_rng(0)) == Interval(1.0, 0.0, 1.0)
