"""Noisy histograms: sensitivity, the law of the noise both ways, the planned cost, and what a release may be."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_contexts import TEST as CONTEXT
from scipy import stats

from privacy.accounting import epsilon
from privacy.egress import KINDS, Release, gate
from privacy.errors import PlanError, ReleaseRefusedError
from privacy.events import GaussianRelease, LaplaceRelease, NonPrivate, PoissonGaussian
from privacy.histogram import HistogramNoise, noisy_histogram, plan_noise

TINY = HistogramNoise("laplace", 1e-9)


def _counts(cells: list[int], units: list[int], k: int, noise: HistogramNoise = TINY) -> np.ndarray:
    return noisy_histogram(np.array(cells), 3, np.array(units), rows_per_unit=k, noise=noise, context=CONTEXT)


def test_counts_by_hand_and_rows_outside_count_nowhere() -> None:
    assert _counts([0, 2, 2, -1, 3], [0, 1, 2, 3, 4], 1).tolist() == [1, 0, 2]


def test_one_unit_moves_the_counts_by_at_most_its_rows() -> None:
    # Unit 7 has four rows; with k = 2 its first two count: cells 0 and 1.
    rows = _counts([0, 1, 1, 1, 2], [7, 7, 7, 7, 8], 2)
    assert rows.tolist() == [1, 1, 1]
    without = _counts([2], [8], 2)
    assert np.abs(rows - without).sum() == 2  # not 4, which an unbounded histogram would show


@pytest.mark.parametrize("mechanism", ["laplace", "gaussian"])
def test_the_noise_has_the_claimed_law_and_no_other(mechanism: str) -> None:
    k, multiplier, n = 3, 20.0, 20_000
    noise = HistogramNoise(mechanism, multiplier)  # type: ignore[arg-type]
    drawn = noisy_histogram(
        np.zeros(0, np.int64), n, np.zeros(0, np.int64), rows_per_unit=k, noise=noise, context=CONTEXT
    )
    law = stats.laplace if mechanism == "laplace" else stats.norm
    # Rounding moves the distribution function by at most half a count: .5/60 x density < .005 here.
    for scale, fits in ((k * multiplier, True), (k * multiplier * 2 / 3, False), (k * multiplier * 1.5, False)):
        distance = stats.kstest(drawn + np.random.default_rng(0).uniform(-0.5, 0.5, n), law(scale=scale).cdf).statistic
        assert bool(distance < 0.02) is fits
    assert abs(float(np.corrcoef(drawn[:-1], drawn[1:])[0, 1])) < 0.04
    assert drawn.std() == pytest.approx(noise.deviation(k), rel=0.05)


def test_a_fork_repeats_no_noise(tmp_path: Path) -> None:
    noise = HistogramNoise("gaussian", 1e6)
    empty = np.zeros(0, np.int64)

    def draw() -> bytes:
        return noisy_histogram(empty, 8, empty, rows_per_unit=1, noise=noise, context=CONTEXT).tobytes()

    draw()
    child = os.fork()
    if child == 0:
        (tmp_path / "child").write_bytes(draw())
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "child").read_bytes() != draw()


@pytest.mark.parametrize(("budget", "releases"), [(3.0, 1), (3.0, 19)])
def test_the_planned_noise_costs_the_budget_and_hardly_less(budget: float, releases: int) -> None:
    noise = plan_noise(epsilon=budget, delta=1e-5, releases=releases)
    spent = epsilon([noise.event(partition="evaluation", unit="record", count=releases)], 1e-5)
    assert budget * 0.96 <= spent <= budget


def test_one_release_is_laplace_and_many_are_gaussian() -> None:
    # b = 1/3 has deviation .471; the Gaussian of epsilon 3, delta 1e-5 needs 1.4 or so.
    one = plan_noise(epsilon=3.0, delta=1e-5, releases=1)
    assert one.mechanism == "laplace"
    assert one.deviation(1) == pytest.approx(math.sqrt(2) / 3, rel=1e-4)
    assert plan_noise(epsilon=3.0, delta=1e-5, releases=50).mechanism == "gaussian"


@pytest.mark.parametrize("keys", [{"epsilon": 0.0}, {"epsilon": math.inf}, {"delta": 0.0}, {"releases": 0}])
def test_a_senseless_budget_is_refused(keys: dict[str, float]) -> None:
    with pytest.raises(PlanError, match="wanted"):
        plan_noise(**{"epsilon": 1.0, "delta": 1e-5, "releases": 1, **keys})  # type: ignore[arg-type]


TRAIN = {"partition": "train", "unit": "record"}
TEST = {"partition": "evaluation", "unit": "record"}


@pytest.mark.parametrize(
    ("kind", "event", "fits"),
    [
        ("update", PoissonGaussian(noise_multiplier=1.0, sampling_rate=0.1, steps=1, **TRAIN), True),
        ("update", LaplaceRelease(noise_multiplier=1.0, **TRAIN), False),
        ("metrics", LaplaceRelease(noise_multiplier=1.0, **TEST), True),
        ("metrics", NonPrivate(what="exact metrics", **TEST), True),
        ("metrics", GaussianRelease(noise_multiplier=1.0, **TRAIN), False),
        ("metrics", PoissonGaussian(noise_multiplier=1.0, sampling_rate=0.1, steps=1, **TEST), False),
        ("gossip", LaplaceRelease(noise_multiplier=1.0, **TEST), False),
    ],
)
def test_a_release_is_typed(kind: str, event: object, fits: bool) -> None:
    name = KINDS[kind].prefix + "x" if kind in KINDS else "x"
    release = Release(kind, {name: torch.zeros(1)}, event)  # type: ignore[arg-type]
    keys = {"allowed": [kind], "charged": [event], "shared": ["x"], "measured": ["metrics.x"]}
    if fits:
        assert set(gate([release], {}, **keys)) == {name}  # type: ignore[arg-type]
    else:
        with pytest.raises(ReleaseRefusedError):
            gate([release], {}, **keys)  # type: ignore[arg-type]


def test_one_event_pays_for_one_release_and_metrics_cannot_carry_parameters() -> None:
    event = LaplaceRelease(noise_multiplier=1.0, **TEST)
    first, second = (Release("metrics", {f"metrics.{n}": torch.zeros(1)}, event) for n in "ab")
    names = ["metrics.a", "metrics.b"]
    keys = {"allowed": ["metrics"], "charged": [event], "shared": ["head.weight"], "measured": names}
    with pytest.raises(ReleaseRefusedError, match="no event"):
        gate([first, second], {}, **keys)  # type: ignore[arg-type]
    with pytest.raises(ReleaseRefusedError, match="not of that kind"):
        gate([Release("metrics", {"head.weight": torch.zeros(1)}, event)], {}, **keys)  # type: ignore[arg-type]
