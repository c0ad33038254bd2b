"""`check_metric`: the conformance suite of metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clients.metrics import Interval, Metric
from consortia.common.errors import ArgumentError
from consortia.testing._suite import SuiteError, leaves_the_process_as_it_is, require, run_checks
from consortia_plugins.arguments import named_arguments

Array = NDArray[np.float64]
_CLOSE = 1e-8
_ROWS = 60
_CLASSES = 3
_OF_UNIT = 12


@dataclass(frozen=True)
class Sample:
    """Rows with scores of four models, from perfect to as wrong as can be."""

    kind: str
    target: Array
    perfect: Array
    good: Array
    poor: Array
    opposite: Array

    def take(self, rows: NDArray[np.int64]) -> Sample:
        """Return those rows, in that order and as often."""
        models = (self.perfect, self.good, self.poor, self.opposite)
        return Sample(self.kind, self.target[rows], *(scores[rows] for scores in models))


def sample(kind: str, rows: int, seed: int) -> Sample:
    """Return made-up rows; a few of the scores are alike."""
    rng = np.random.default_rng(seed)
    if kind == "regression":
        y = rng.normal(size=rows)
        good, poor = (y + spread * rng.normal(size=rows) for spread in (0.3, 1.5))
        return Sample(kind, y, y.copy(), good.round(1), poor.round(1), y.mean() - 3 * (y - y.mean()))
    if kind in {"binary", "anomaly"}:
        y = (rng.random(rows) < 0.4).astype(np.float64)
        good, poor = (np.clip(y * pull + rng.random(rows) * (1 - pull), 0, 1) for pull in (0.4, 0.1))
        return Sample(kind, y, y.copy(), good.round(2), poor.round(2), 1 - y)
    if kind == "multilabel":
        there = rng.random((rows, _CLASSES)) < 0.4
        right = there.astype(np.float64)
        good, poor = (np.clip(right * pull + rng.random(right.shape) * (1 - pull), 0, 1) for pull in (0.4, 0.1))
        codes = there @ (1 << np.arange(_CLASSES))
        return Sample(kind, codes.astype(np.float64), right, good.round(2), poor.round(2), 1 - right)
    codes = rng.integers(0, _CLASSES, rows)
    right = np.eye(_CLASSES)[codes]
    good, poor = (pull * right + (1 - pull) * rng.dirichlet([1] * _CLASSES, rows) for pull in (0.4, 0.1))
    return Sample(kind, codes.astype(np.float64), right, good, poor, np.eye(_CLASSES)[(codes + 1) % _CLASSES])


@dataclass
class Case:
    """A metric under test."""

    metric: Metric
    seed: int

    @cached_property
    def samples(self) -> list[Sample]:
        """Two for each kind of target."""
        return [sample(kind, _ROWS, self.seed + n) for kind in self.metric.kinds for n in range(2)]

    @property
    def blocks(self) -> NDArray[np.int64]:
        """The rows of each unit (n_units, rows of one): one row, or twelve for a metric that ranks a unit's rows."""
        return np.arange(_ROWS).reshape(-1, _OF_UNIT if self.metric.by_unit else 1)

    def values(self, scores: Array, target: Array, weights: Array) -> Array:
        """Return what the weighted function gives, its shape checked; AssertionError for another."""
        if self.metric.by_unit:
            return self.metric.values(scores, target, weights, np.arange(len(target)) // _OF_UNIT)
        with np.errstate(all="ignore"):
            found = np.asarray(self.metric.weighted(scores, target, weights), dtype=np.float64)
        require(
            found.shape == (len(weights),), f"wanted shape {(len(weights),)} of {weights.shape} weights, got another"
        )
        return found

    def value(self, scores: Array, target: Array) -> float:
        """Return the value where each row counts once."""
        return float(self.values(scores, target, np.ones((1, len(target))))[0])

    def gain(self, one: Sample, units: NDArray[np.int64], *, turned: bool = False) -> Interval | None:
        """Return the metric's own interval of good minus poor scores, or the other way round."""
        left, right = (one.poor, one.good) if turned else (one.good, one.poor)
        return self.metric.interval(self.metric, left, right, one.target, units, np.random.default_rng(self.seed))


def _alike(one: Array | float, other: Array | float) -> bool:
    return np.allclose(one, other, rtol=_CLOSE, atol=_CLOSE, equal_nan=True)


def has_a_value_on_ordinary_rows(case: Case) -> None:
    """A finite number for good and for poor scores."""
    for one in case.samples:
        for scores in (one.good, one.poor):
            value = case.value(scores, one.target)
            require(bool(np.isfinite(value)), f"{one.kind}: wanted a number on {_ROWS} ordinary rows, got {value}")


def a_weight_is_a_number_of_rows(case: Case) -> None:
    """A row of weight 3 is three rows, and one of weight 0 is not there."""
    rng = np.random.default_rng(case.seed)
    for one in case.samples:
        counts = rng.integers(0, 4, len(case.blocks))
        of_row = counts.repeat(case.blocks.shape[1])
        weighted = float(case.values(one.good, one.target, of_row[None].astype(np.float64))[0])
        rows = case.blocks.repeat(counts, axis=0).ravel()
        repeated = case.value(one.good[rows], one.target[rows])
        require(
            _alike(weighted, repeated),
            f"{one.kind}: {weighted:.6g} with weights, {repeated:.6g} with the rows as often",
        )


def twice_the_rows_are_worth_the_same(case: Case) -> None:
    """Values of participants with few and with many rows can be compared."""
    for one in case.samples:
        once, twice = case.values(one.good, one.target, np.array([[1.0], [2.0]]) * np.ones(_ROWS))
        require(
            bool(np.isclose(once, twice, rtol=_CLOSE)), f"{one.kind}: {once:.6g}, and {twice:.6g} of each row twice"
        )


def a_sample_sees_its_own_weights_alone(case: Case) -> None:
    """Several samples at once give what each gives alone."""
    rng = np.random.default_rng(case.seed)
    for one in case.samples:
        weights = rng.integers(0, 3, (4, _ROWS)).astype(np.float64)
        together = case.values(one.good, one.target, weights)
        alone = np.concatenate([case.values(one.good, one.target, weights[n : n + 1]) for n in range(4)])
        require(_alike(together, alone), f"{one.kind}: {together} together, {alone} one by one")


def order_of_rows_does_not_matter(case: Case) -> None:
    """It is a measure of a set of rows."""
    for one in case.samples:
        order = np.random.default_rng(case.seed).permutation(case.blocks).ravel()
        there, here = case.value(one.good, one.target), case.value(one.good[order], one.target[order])
        require(_alike(there, here), f"{one.kind}: {there:.6g}, and {here:.6g} in another order")


def better_scores_are_better(case: Case) -> None:
    """The direction: perfect scores are at least as good as any, and better than those that are wrong everywhere."""
    for one in case.samples:
        perfect, good, wrong = (case.value(s, one.target) for s in (one.perfect, one.good, one.opposite))
        told = f"{one.kind}: better is {case.metric.better!r}, and perfect scores have {perfect:.6g}"
        sign = case.metric.sign
        require(sign * (perfect - wrong) > 0, f"{told}, wrong ones {wrong:.6g}")
        require(sign * (perfect - good) >= -_CLOSE, f"{told}, good ones {good:.6g}")


def odd_rows_have_a_number_or_none(case: Case) -> None:
    """One row, one class, one score, certain and wrong: a number, or NaN where it is not defined; no exception."""
    for one in case.samples:
        alike = np.broadcast_to(one.good[:1], one.good.shape).copy()
        first = np.full(_ROWS, one.target[0])
        for what, scores, target in (
            ("one row", one.good[:1], one.target[:1]),
            ("targets that are all alike", one.good, first),
            ("targets and scores that are all alike", alike, first),
            ("scores that are all alike", alike, one.target),
            ("scores that are certain and wrong", one.opposite, one.target),
        ):
            try:
                value = case.value(scores, target)
            except Exception as error:
                raise AssertionError(f"{one.kind}: {what}: {type(error).__name__}; give NaN instead") from error
            require(not np.isinf(value), f"{one.kind}: {what}: wanted a number or NaN, got {value}")


def changes_none_of_its_inputs(case: Case) -> None:
    """Other metrics read the same arrays."""
    for one in case.samples:
        scores, target, weights = one.good.copy(), one.target.copy(), np.ones((2, _ROWS))
        case.values(scores, target, weights)
        for what, before, after in (("scores", one.good, scores), ("target", one.target, target)):
            require(np.array_equal(before, after), f"{one.kind}: {what} were changed")
        require(bool((weights == 1).all()), f"{one.kind}: weights were changed")


def the_same_rows_give_the_same_value(case: Case) -> None:
    """No chance of its own: a run repeats, and nobody else's random numbers are used up."""
    for one in case.samples:
        with leaves_the_process_as_it_is():
            first, second = (case.value(one.good, one.target) for _ in range(2))
        require(first == second, f"{one.kind}: {first!r}, and {second!r} when asked again")


def the_interval_is_that_of_the_gain(case: Case) -> None:
    """Left minus right in the metric's direction, from the given generator alone."""
    units = np.arange(_ROWS)
    for one in case.samples:
        found = case.gain(one, units)
        if found is None:
            continue
        wanted = case.metric.sign * (case.value(one.good, one.target) - case.value(one.poor, one.target))
        require(
            bool(np.isclose(found.value, wanted)), f"{one.kind}: wanted the gain {wanted:.6g}, got {found.value:.6g}"
        )
        require(found.low < found.high, f"{one.kind}: wanted low < high, got {found.low:.6g} and {found.high:.6g}")
        again = case.gain(one, units)
        require(found == again, f"{one.kind}: another interval from the same generator")
        other = case.gain(one, units, turned=True)
        require(other is not None and _alike(other.value, -wanted), f"{one.kind}: sides changed, the sign did not")


def the_interval_is_over_units(case: Case) -> None:
    """Twenty alike rows of a unit are no more evidence than one, and few units are less than many."""
    for one, width in _widths(case, _ROWS):
        rows = np.repeat(np.arange(_ROWS), 20)
        many = case.gain(one.take(rows), rows)
        ratio = 0.0 if many is None else (many.high - many.low) / width
        require(0.6 < ratio < 1.7, f"{one.kind}: {ratio:.2f} times as wide with each row 20 times in its unit")
        most = sample(one.kind, 16 * _ROWS, case.seed)
        wide = case.gain(most, np.arange(16 * _ROWS))
        share = 9.0 if wide is None else (wide.high - wide.low) / width
        require(share < 0.6, f"{one.kind}: {share:.2f} times as wide with 16 times as many units")
        few = case.gain(one.take(np.arange(2)), np.arange(2))
        require(few is None, f"{one.kind}: two units say nothing, and have an interval")


def the_interval_holds_the_truth(case: Case) -> None:
    """Of 25 samples of 60 units, at least 15 intervals hold the gain of 20,000 rows: they are meant to be 95 % ones."""
    for kind in case.metric.kinds:
        large = sample(kind, 20_000, case.seed + 99)
        truth = case.metric.sign * (case.value(large.good, large.target) - case.value(large.poor, large.target))
        held = tried = 0
        for seed in range(25):
            one = sample(kind, _ROWS, case.seed + 1000 + seed)
            found = case.gain(one, np.arange(_ROWS))
            if found is not None:
                tried, held = tried + 1, held + (found.low <= truth <= found.high)
        require(held >= 0.6 * tried, f"{kind}: {held} of {tried} intervals hold the gain {truth:.4g} of many rows")


def _widths(case: Case, rows: int) -> Iterator[tuple[Sample, float]]:
    for kind in case.metric.kinds:
        one = sample(kind, rows, case.seed)
        found = case.gain(one, np.arange(rows))
        if found is not None:
            yield one, found.high - found.low


_CHECKS = {
    check.__name__: check
    for check in (
        has_a_value_on_ordinary_rows,
        a_weight_is_a_number_of_rows,
        twice_the_rows_are_worth_the_same,
        a_sample_sees_its_own_weights_alone,
        order_of_rows_does_not_matter,
        better_scores_are_better,
        odd_rows_have_a_number_or_none,
        changes_none_of_its_inputs,
        the_same_rows_give_the_same_value,
        the_interval_is_that_of_the_gain,
        the_interval_is_over_units,
        the_interval_holds_the_truth,
    )
}


class MetricCheckError(SuiteError):
    """The metric breaks at least one promise. `failures` maps each failed check to what it saw."""


@named_arguments(ArgumentError)
def check_metric(metric: Metric, *, seed: int = 0) -> tuple[str, ...]:
    """Hold a metric to the promises of the seam (`clients.metrics.Metric`), for each kind of target that it measures.

    A metric without an interval (`interval` gives None) is held to the others.

    Returns the names of the checks and raises `MetricCheckError`, both as every suite of `consortia.testing` does.

    Parameters
    ----------
    seed : int
        Of the made-up rows.
    """
    return run_checks(_CHECKS, Case(metric, seed), MetricCheckError, f"metric {metric.name}")
