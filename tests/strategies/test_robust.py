"""Robust aggregation on cases worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from dp_step import Model
from flwr.app import ArrayRecord, RecordDict
from flwr.serverapp.strategy.multikrum import select_multikrum
from noise_contexts import TEST
from torch import Tensor

from privacy.dp_sgd import DpSgdPlan, train_private
from privacy.randomness import fresh_generator
from strategies.base import Robust, Update
from strategies.bulyan import Bulyan
from strategies.geometric_median import GeometricMedian, geometric_median
from strategies.krum import Krum, MultiKrum, scores, select
from strategies.median import Median
from strategies.norm_bound import NormBound, honest_norm
from strategies.streaming import squared_distances
from strategies.trimmed_mean import TrimmedMean


def _updates(*values: list[float], weights: list[float] | None = None) -> list[Update]:
    shares = weights or [1 / len(values)] * len(values)
    return [
        Update(f"p{i}", {"w": torch.tensor(v, dtype=torch.float64)}, share)
        for i, (v, share) in enumerate(zip(values, shares, strict=True))
    ]


def _new(strategy: Robust, updates: list[Update], start: float = 0.0) -> list[float]:
    current = {"w": torch.full_like(updates[0].state["w"], start)}
    new, memory = strategy.aggregate(current, updates, {})  # type: ignore[attr-defined]
    assert memory == {}
    return new["w"].tolist()  # type: ignore[no-any-return]


def test_median_by_hand() -> None:
    assert _new(Median(), _updates([1.0, -9.0], [2.0, 0.0], [100.0, 1.0])) == [2.0, 0.0]
    assert _new(Median(), _updates([1.0], [2.0], [3.0], [100.0])) == [2.5]


def test_trimmed_mean_by_hand() -> None:
    # Without 0 and 100: (1 + 2 + 3) / 3. With two trimmed on each side only the median is left.
    assert _new(TrimmedMean(), _updates([0.0], [1.0], [2.0], [3.0], [100.0])) == [2.0]
    assert _new(TrimmedMean(attackers=2), _updates([0.0], [1.0], [5.0], [6.0], [100.0])) == [5.0]


@pytest.mark.parametrize(
    ("points", "weights", "expected"),
    [
        # Equilateral triangle: the centroid.
        ([[0, 0], [1, 0], [0.5, math.sqrt(3) / 2]], [1, 1, 1], [0.5, math.sqrt(3) / 6]),
        # Convex quadrilateral: where its diagonals cross (Fagnano).
        ([[-1, 0], [3, 0], [0, -2], [0, 5]], [1, 1, 1, 1], [0, 0]),
        # An angle of more than 120 degrees: its vertex.
        ([[0, 0], [2, 0.1], [-2, 0.1]], [1, 1, 1], [0, 0]),
        # On a line: the weighted median.
        ([[0], [1], [10]], [1, 1, 1], [1]),
        ([[0], [1], [10]], [1, 1, 3], [10]),
        # Half of the points are equal, and one more than a half of the weight decides.
        ([[4, 4], [4, 4], [0, 9]], [1, 1, 1], [4, 4]),
    ],
)
def test_geometric_median_by_hand(points: list[list[float]], weights: list[float], expected: list[float]) -> None:
    z = geometric_median(torch.tensor(points, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64))
    assert z.tolist() == pytest.approx(expected, abs=1e-7)


def test_geometric_median_is_where_the_gradient_vanishes() -> None:
    points = torch.randn(9, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    points[0] = 1e6  # an attacker
    weights = torch.linspace(1, 2, 9, dtype=torch.float64)
    z = geometric_median(points, weights)
    away = points - z
    assert float((weights[:, None] * away / away.norm(dim=1, keepdim=True)).sum(0).norm()) < 1e-6
    assert float(z.norm()) < 10


def test_krum_by_hand() -> None:
    # n = 5, f = 1: two nearest count. 0: 1 + 4, 1: 1 + 1, 2: 1 + 1, 3: 1 + 4, 100: 97^2 + 98^2.
    points = torch.tensor([[0.0], [1.0], [2.0], [3.0], [100.0]], dtype=torch.float64)
    assert scores(squared_distances([[p] for p in points]), 2) == [5, 2, 2, 5, 97**2 + 98**2]
    updates = _updates([0.0], [1.0], [2.0], [3.0], [100.0])
    assert _new(Krum(), updates) == [1.0]  # a tie: the earlier name
    assert _new(Krum(), updates[::-1]) == [1.0]
    assert _new(MultiKrum(), updates) == [1.5]  # m = n - f - 2 = 2
    assert _new(MultiKrum(select=1), updates) == [1.0]


def test_krum_chooses_what_flower_chooses() -> None:
    points = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    points[4] += 5
    contents = [RecordDict({"arrays": ArrayRecord({"w": _array(p)})}) for p in points]
    theirs = select_multikrum(contents, num_malicious_nodes=2, num_nodes_to_select=4)
    ours = select(squared_distances([[p] for p in points]), [f"p{i}" for i in range(9)], 2, 4)
    assert [contents.index(c) for c in theirs] == ours


def _array(values: Tensor):  # type: ignore[no-untyped-def]
    from flwr.app import Array

    return Array(values.numpy())


def test_distances_keep_their_digits_far_from_zero() -> None:
    # Parameters of 1e8 that differ by .001: squares of parameters (1e16) have no digit left for that.
    start = 1e8
    values = [start + d for d in (0.001, 0.0021, 0.003, 0.0045, 1.0)]
    assert _new(Krum(), _updates(*[[v] for v in values]), start)[0] - start == pytest.approx(0.0021, abs=1e-6)


def test_norm_bound_by_hand() -> None:
    # (3, 4) is 5 long: with bound 1 it counts as (.6, .8); (0, .5) is short enough. Mean of three.
    new = _new(NormBound(norm=1.0), _updates([3.0, 4.0], [0.0, 0.5], [0.0, 0.0]))
    assert new == pytest.approx([0.2, 1.3 / 3])
    with pytest.raises(ValueError, match="finite bound of each"):
        NormBound().aggregate({"w": torch.zeros(1)}, _updates([1.0], [1.0], [1.0]), {})


def test_relative_bounds_by_hand() -> None:
    # Bounds 10, 10 and 20; norms 5, 1 and 100 are shares of .5, .1 and 5; median .5. At 1.2 medians nobody has more
    # than .6: 5 and 1 are short enough, 100 becomes .6 x 20 = 12. Mean of 5, 1 and 12.
    values = ([5.0], [1.0], [100.0])
    updates = [
        Update(f"p{i}", {"w": torch.tensor(v, dtype=torch.float64)}, 1 / 3, bound=b)
        for i, (v, b) in enumerate(zip(values, (10.0, 10.0, 20.0), strict=True))
    ]
    assert _new(NormBound(relative=1.2), updates) == pytest.approx([18 / 3])
    # Non-private ones are measured against 1: shares 5, 1 and 100, at most 6.
    assert _new(NormBound(relative=1.2), _updates(*values)) == pytest.approx([(5 + 1 + 6) / 3])
    # Whatever the attacker sends, honest ones keep at least their length's share and the mean moves by a third of 6.
    for size in (1e3, 1e6):
        assert _new(NormBound(relative=1.2), _updates([5.0], [1.0], [size])) == pytest.approx([4.0])


def test_honest_norm_by_hand() -> None:
    # q = 1 draws exactly n units: eta T C without noise.
    terms = {"clip": 2.0, "learning_rate": 0.5, "steps": 3, "sampling_rate": 1.0, "units": 100, "coordinates": 4}
    assert honest_norm(noise_multiplier=0.0, **terms) == pytest.approx(0.5 * 3 * 2)  # type: ignore[arg-type]
    # Noise of sigma 10: eta sigma C sqrt(T) / n x (sqrt(d) + sqrt(2 ln 1e6)).
    noise = 0.5 * 10 * 2 * math.sqrt(3) / 100 * (2 + math.sqrt(2 * math.log(1e6)))
    assert honest_norm(noise_multiplier=10.0, **terms) == pytest.approx(3 + noise)  # type: ignore[arg-type]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_real_dp_sgd_stays_within_the_bound(momentum: float) -> None:
    # Rows whose gradients all point one way: the most that clipping lets through, and noise on top.
    plan = DpSgdPlan(sampling_rate=0.5, declared_units=40, steps=8, noise_multiplier=1.0, clip=1.0)
    inputs, target = {"features": torch.full((40, 3), 5.0)}, torch.full((40, 1), 1e4)
    longest = 0.0
    for _ in range(10):
        module = Model()
        before = torch.nn.utils.parameters_to_vector(module.parameters()).detach().double()
        train_private(
            module,
            inputs,
            target,
            torch.arange(40),
            40,
            lambda out, y: (out - y).square().flatten(),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=momentum),
            plan,
            fresh_generator(TEST),
        )
        after = torch.nn.utils.parameters_to_vector(module.parameters()).detach().double()
        longest = max(longest, float((after - before).norm()))
    bound = honest_norm(
        clip=1.0,
        learning_rate=0.1,
        steps=8,
        noise_multiplier=1.0,
        sampling_rate=0.5,
        units=40,
        coordinates=before.numel(),
        momentum=momentum,
    )
    assert longest <= bound
    assert bound <= (3 if momentum == 0 else 8) * longest  # and it is not so wide that it says nothing


@pytest.mark.parametrize(
    ("strategy", "least"),
    [
        (Median(), 3),
        (TrimmedMean(attackers=2), 5),
        (GeometricMedian(), 3),
        (NormBound(norm=1.0), 3),
        (Bulyan(), 7),
        (Bulyan(attackers=2), 11),
        (Krum(), 5),
        (Krum(attackers=3), 9),
        (MultiKrum(), 5),
        (MultiKrum(select=4), 7),
    ],
)
def test_it_refuses_below_what_it_is_meaningful_for(strategy: Robust, least: int) -> None:
    assert strategy.minimum_participants == least
    _new(strategy, _updates(*[[1.0]] * least))
    with pytest.raises(ValueError, match=f"at least {least}"):
        _new(strategy, _updates(*[[1.0]] * (least - 1)))


@pytest.mark.parametrize("attackers", [0, -1, True, 1.5])
def test_attackers_are_counted_in_whole_numbers(attackers: int) -> None:
    with pytest.raises(ValueError, match="attackers"):
        Median(attackers=attackers)
