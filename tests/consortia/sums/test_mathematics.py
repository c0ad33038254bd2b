"""Columns, sums, their sensitivity, and the solution: against numbers of an independent prototype, and hostile rows."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from clients import registry
from clients.models import predict
from clients.schema import Target
from consortia.learners.blocks.noise import mu_of, solve
from consortia.learners.blocks.shares import Shares
from consortia.learners.sums.columns import Columns, columns_of
from consortia.learners.sums.model import Recipe, build
from consortia.learners.sums.outcome import Outcome, outcome_of
from consortia.learners.sums.solution import AtHome, Own, Released, centre_and_radius, everybodys
from consortia.learners.sums.statistics import Rows, first_message, packed, prepared, second_message, unpacked
from privacy.accounting import epsilon
from privacy.errors import PlanError

Array = NDArray[np.float64]
SHARES = Shares("sums", ((0.10,), (0.27, 0.63)))
COLUMNS = Columns(numbers=(0, 1, 2), binary=(False, False, False, False, True, True, True), ones=2)
OUTCOMES = {
    "binary": Outcome("binary", (0.2,)),
    "multiclass": Outcome("multiclass", (0.5, 0.2, 0.2, 0.1)),
    "regression": Outcome("regression", (0.4,), 100.0, 50.0),
}


def _targets(outcome: Outcome, random: np.random.Generator, count: int) -> torch.Tensor:
    if outcome.kind == "multiclass":
        return torch.from_numpy(random.integers(0, 4, count))
    if outcome.kind == "regression":
        return torch.from_numpy(random.choice([50.0, 150.0, 90.0, 1e9, math.nan], count)).float()
    return torch.from_numpy(random.integers(0, 2, count)).float()


def _rows(outcome: Outcome, random: np.random.Generator, count: int, units: int) -> Rows:
    """Rows as no schema would give them: corners, and numbers far outside of [-1, 1]."""
    features = random.choice([-1.0, 1.0, 0.0, 0.3, -0.7, 1e6], (count, COLUMNS.features))
    index = np.r_[np.arange(units), random.integers(0, units, count - units)]
    return Rows(torch.from_numpy(features), _targets(outcome, random, count), torch.from_numpy(index))


def _without(rows: Rows, unit: int) -> Rows:
    kept = rows.unit_index != unit
    index = rows.unit_index[kept]
    return Rows(rows.features[kept], rows.target[kept], index - (index > unit).long())


@pytest.mark.parametrize("kind", OUTCOMES)
def test_no_unit_moves_a_block_further_than_its_sensitivity(kind: str) -> None:
    outcome, random, largest = OUTCOMES[kind], np.random.default_rng(1), [0.0, 0.0, 0.0]
    bounds = (COLUMNS.first_bound, 1.0, outcome.sensitivity)
    for game in range(24):
        rows = _rows(outcome, random, 14, 6)
        centre = torch.from_numpy(random.uniform(-1, 1, COLUMNS.width))
        radius = torch.tensor([float(random.choice([1e-3, 0.5, 2.0, 50.0]))], dtype=torch.float64)
        whole = (first_message(COLUMNS, rows), *second_message(COLUMNS, outcome, rows, centre, radius))
        less = _without(rows, game % 6)
        other = (first_message(COLUMNS, less), *second_message(COLUMNS, outcome, less, centre, radius))
        for block, (one, two) in enumerate(zip(whole, other, strict=True)):
            largest[block] = max(largest[block], float(np.linalg.norm(one - two)) / bounds[block])
    assert all(0.7 < ratio <= 1 + 1e-12 for ratio in largest), largest


def test_a_bound_is_met_by_the_worst_row() -> None:
    outcome = OUTCOMES["multiclass"]
    rows = Rows(torch.ones(1, COLUMNS.features), torch.tensor([3]), torch.tensor([0]))
    centre, radius = torch.zeros(COLUMNS.width, dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64)
    gram, slope = second_message(COLUMNS, outcome, rows, centre, radius)
    assert np.linalg.norm(gram) == pytest.approx(1, abs=1e-3)
    assert np.linalg.norm(slope) == pytest.approx(outcome.sensitivity, rel=1e-3)
    assert outcome.sensitivity == pytest.approx(math.sqrt(0.5**2 + 2 * 0.2**2 + 0.9**2))


def test_what_a_unit_adds_goes_by_its_own_rows_to_the_last_bit() -> None:
    random, outcome = np.random.default_rng(2), OUTCOMES["regression"]
    features = torch.from_numpy(random.uniform(-1, 1, (3000, COLUMNS.features)))
    target = torch.from_numpy(random.uniform(40, 160, 3000)).float()
    centre, radius = torch.full((COLUMNS.width,), 0.1, dtype=torch.float64), torch.tensor([0.9], dtype=torch.float64)

    def sums(places: Array) -> list[Array]:
        rows = Rows(features[places], target[places], torch.arange(len(places)))
        x, deviations = prepared(COLUMNS, outcome, rows, centre, radius)
        return [first_message(COLUMNS, rows), np.asarray(x.T @ x), np.asarray(x.T @ deviations)]

    order = random.permutation(3000)
    games = zip(sums(np.array([17])), sums(order), sums(order[order != 17]), strict=True)
    assert all(np.array_equal(everybody - others, alone) for alone, everybody, others in games)


def test_a_row_that_is_not_finite_adds_nothing() -> None:
    rows = Rows(torch.full((2, COLUMNS.features), math.nan), torch.tensor([1.0, 0.0]), torch.tensor([0, 1]))
    centre, radius = torch.zeros(COLUMNS.width, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert not first_message(COLUMNS, rows).any()
    assert not any(block.any() for block in second_message(COLUMNS, OUTCOMES["binary"], rows, centre, radius))


def test_units_of_several_rows_keep_gram_and_slope_on_one_scale() -> None:
    random, outcome = np.random.default_rng(3), OUTCOMES["binary"]
    rows = _rows(outcome, random, 40, 8)
    features = torch.from_numpy(random.uniform(-1, 1, (40, COLUMNS.features)))
    rows = Rows(features, rows.target, rows.unit_index)
    centre, radius = torch.zeros(COLUMNS.width, dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64)
    x = COLUMNS.encode(features, centre, radius).numpy()
    weights = random.normal(size=(COLUMNS.size, 1))
    share = rows.shares().numpy()
    gram, _ = second_message(COLUMNS, outcome, rows, centre, radius)
    assert unpacked(gram, COLUMNS.size) @ weights == pytest.approx(x.T @ (share * (x @ weights)), abs=1e-3)


def test_a_packed_matrix_keeps_its_norm() -> None:
    matrix = np.random.default_rng(4).normal(size=(7, 7))
    matrix = matrix + matrix.T
    assert np.linalg.norm(packed(matrix)) == pytest.approx(np.linalg.norm(matrix))
    assert unpacked(packed(matrix), 7) == pytest.approx(matrix)


# Values of the prototype (its floor of variances set to 0 as specified), first four test rows of breast cancer.
SCORES = {
    math.inf: (
        [[-0.296766, -0.231899, -0.237456, -0.446013], [-0.296845, -0.23197, -0.237522, -0.446099]],
        [[-0.324032, -0.474853, -0.411356, -0.589678], [-0.409801, -0.147854, -0.341279, -0.255507]],
        [-0.29684, -0.231958, -0.237516, -0.446104],
    ),
    1.0: (
        [[-0.263289, -0.208204, -0.200808, -0.422321], [-0.322664, -0.24843, -0.229996, -0.444813]],
        [[-0.285043, -0.405485, -0.372715, -0.553967], [-0.321116, -0.161799, -0.365733, -0.227283]],
        [-0.300905, -0.242093, -0.233409, -0.423281],
    ),
}


@pytest.mark.parametrize("budget", SCORES)
def test_the_solution_is_that_of_the_prototype(budget: float) -> None:
    cancer = load_breast_cancer()
    x = cancer.data[:, [0, 1, 4, 5, 7]]
    low, high = np.floor(x.min(0) * 10) / 10, np.ceil(x.max(0) * 10) / 10
    x, y = np.clip(2 * (x - low) / (high - low) - 1, -1, 1), cancer.target
    columns, outcome = Columns(tuple(range(5)), (False,) * 5, 0), Outcome("binary", (0.6,))
    parts = [
        Rows(torch.from_numpy(x[i::4][:n]), torch.from_numpy(y[i::4][:n]), torch.arange(n))
        for i, n in ((0, 60), (1, 90), (2, 140))
    ]
    first = np.sum([first_message(columns, rows) for rows in parts], axis=0)
    means, length = centre_and_radius(first, 290, np.asarray(columns.squared), columns.first_bound)
    centre, radius = torch.from_numpy(means), torch.tensor([length])

    def noise(sensitivity: float, share: float, shares_left: int) -> float:
        if math.isinf(budget):
            return 0.0
        return sensitivity / (mu_of(budget, 1e-5) * math.sqrt(share)) * math.sqrt(shares_left / 2)

    def released(parts: list[Rows], shares_left: int) -> Released:
        blocks = [second_message(columns, outcome, rows, centre, radius) for rows in parts]
        gram = unpacked(np.sum([block[0] for block in blocks], axis=0), columns.size)
        slope = np.sum([block[1] for block in blocks], axis=0).reshape(-1, 1)
        deviations = noise(1, 0.27, shares_left), noise(0.6, 0.63, shares_left)
        return Released(gram, slope, *deviations, sum(len(rows.target) for rows in parts))

    test = columns.encode(torch.from_numpy(x[3::4]), centre, radius).numpy()
    scores, held_out, everybody = SCORES[budget]
    assert (test @ everybodys(released(parts, 3), outcome))[:4, 0] == pytest.approx(everybody, abs=3e-5)
    for place in (0, 1):
        others = [rows for number, rows in enumerate(parts) if number != place]
        rows, deviations = prepared(columns, outcome, parts[place], centre, radius)
        own = Own(rows.numpy(), deviations.numpy(), np.arange(len(rows)))
        weights, held = AtHome(released(others, 2), outcome).weights(own, lambda n: np.arange(n) % 3)
        assert (test @ weights)[:4, 0] == pytest.approx(scores[place], abs=3e-5)
        assert held[:4, 0] == pytest.approx(held_out[place], abs=3e-5)


def test_taking_off_ones_own_part_leaves_the_others_and_their_noise() -> None:
    random = np.random.default_rng(5)
    both = Released(random.normal(size=(3, 3)), random.normal(size=(3, 1)), 5.0, 10.0, 70.0)
    own = Released(random.normal(size=(3, 3)), random.normal(size=(3, 1)), 3.0, 8.0, 30.0)
    left = both.less(own)
    assert left.gram == pytest.approx(both.gram - own.gram)
    assert (left.gram_deviation, left.slope_deviation, left.units) == pytest.approx((4.0, 6.0, 40.0))


@pytest.mark.parametrize(("budget", "times"), [((0.1, 1e-6), 1), ((1.0, 1e-5), 1), ((1.0, 1e-5), 3)])
def test_the_blocks_cost_the_budget_by_the_ledgers_own_count(budget: tuple[float, float], times: int) -> None:
    z = solve(SHARES, *budget, times - 1)
    planned, events = SHARES.plan(z, "record", times - 1)
    assert (planned, len(events)) == (times, 3)
    spent = epsilon(list(events) * times, budget[1])
    assert budget[0] * (1 - 5e-4) <= spent <= budget[0]
    assert z == pytest.approx(math.sqrt(times) / mu_of(*budget), rel=2e-4)


def test_a_budget_that_is_none_has_no_noise() -> None:
    for budget in ((0.0, 1e-5), (math.inf, 1e-5), (1.0, 0.0)):
        with pytest.raises(PlanError, match="wanted numbers > 0"):
            solve(SHARES, *budget)


@pytest.mark.parametrize(("kind", "outputs"), [("binary", 1), ("multiclass", 4), ("regression", 1)])
def test_without_weights_a_model_says_what_is_publicly_expected(kind: str, outputs: int) -> None:
    target = {
        "binary": Target(name="y", kind="binary", classes=("no", "yes"), prior=(0.8, 0.2)),
        "multiclass": Target(name="y", kind="multiclass", classes=tuple("abcd"), prior=(0.5, 0.2, 0.2, 0.1)),
        "regression": Target(name="y", kind="regression", low=50, high=150),
    }[kind]
    expected = {"binary": 0.2, "multiclass": [0.5, 0.2, 0.2, 0.1], "regression": 120.0}[kind]
    schema = registry.get("hospital").schema
    outcome = outcome_of(target, (120.0,) if kind == "regression" else ())
    recipe = Recipe(columns_of(schema), outcome, SHARES, 8.0)
    module = build(recipe, target)
    features = {"features": torch.rand(3, schema.width)}
    assert module(features).shape == (3, outputs)
    assert predict(module, features).numpy() == pytest.approx(np.array([expected] * 3))


def test_contrasts_are_orthonormal_and_turn_a_model_back_into_classes() -> None:
    outcome = OUTCOMES["multiclass"]
    values = outcome.deviations(torch.tensor([0, 1, 2, 3]))
    exact = np.eye(4) - np.array(outcome.expected)
    assert np.asarray(values @ values.T) == pytest.approx(exact @ exact.T)
    assert np.exp(np.asarray(outcome.outputs(values * 0.9))).round(6) == pytest.approx(
        np.maximum(0.9 * np.eye(4) + 0.1 * np.array(outcome.expected), 0.002), abs=1e-6
    )


@pytest.mark.parametrize(
    ("target", "expected", "wanted"),
    [
        (Target(name="y", kind="regression"), (), "public bounds"),
        (Target(name="y", kind="regression", low=0, high=1), (2.0,), "between 0 and 1"),
        (Target(name="y", kind="binary", classes=("a", "b")), (1.0,), "share of the positive class"),
        (Target(name="y", kind="multiclass", classes=("a", "b", "c")), (0.5, 0.5), "each of the 3 classes"),
    ],
)
def test_an_expectation_that_does_not_fit_is_refused(target: Target, expected: tuple[float, ...], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        outcome_of(target, expected)


def test_columns_follow_the_schema() -> None:
    hospital = columns_of(registry.get("hospital").schema)
    numbers = 6
    assert (len(hospital.numbers), hospital.ones) == (numbers, 4 + 3)
    assert hospital.width == 32 + 2 * numbers + math.comb(numbers, 2)
    features = torch.linspace(-1, 1, 32).repeat(5, 1)
    x = hospital.expand(features).numpy()
    assert x.shape == (5, hospital.width)
    first = features[0, hospital.numbers[0]].item()
    assert x[0, 32] == pytest.approx(0.5 * (3 * first**2 - 1) / 2)
    pairs = [
        0.35 * features[0, i].item() * features[0, j].item() for i, j in itertools.combinations(hospital.numbers, 2)
    ]
    assert sorted(x[0, 32 + 2 * numbers :]) == pytest.approx(sorted(pairs))
    assert not Columns(tuple(range(11)), (False,) * 11, 0).paired
