"""The learner `additive`: cells, bounds against hostile units, exact to the bit, steps, noise, its account."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from clients import registry
from clients.schema import Column, Schema, Target
from consortia.learners.additive.boosting import Shapes, boosted, curvatures, monotone
from consortia.learners.additive.model import NOISE, PART, SHAPES, START, Recipe, recipe_of
from consortia.learners.blocks.noise import mu_of, solve
from consortia.learners.blocks.recipe import Opened
from consortia.learners.blocks.rows import Rows
from consortia.learners.blocks.shares import Shares
from consortia.terms.additive import AdditiveTerms
from privacy.accounting import epsilon
from privacy.events import resized

SHARES = AdditiveTerms().shares
COLUMNS = (
    Column(name="age", dtype="number", low=0, high=100, nullable=True),
    Column(name="kind", dtype="category", categories=("a", "b", "c")),
    Column(name="old", dtype="flag"),
    Column(name="rank", dtype="category", categories=("low", "mid", "high"), scores=(-1.0, 0.0, 1.0)),
)
TARGETS = {
    "binary": Target(name="y", kind="binary", classes=("no", "yes"), prior=(0.8, 0.2)),
    "multiclass": Target(name="y", kind="multiclass", classes=("r", "g", "b")),
    "regression": Target(name="y", kind="regression", low=-2, high=4),
}


def _recipe(kind: str = "binary", **changes: Any) -> Recipe:
    schema = Schema(name="few", version=1, columns=COLUMNS, target=TARGETS[kind])
    return recipe_of(schema, SHARES, **{"bins": 4, "pair_bins": 2, "clip": 0.5, **changes})


def _rows(count: int, kind: str = "binary", seed: int = 0, units: int | None = None) -> Rows:
    random = np.random.default_rng(seed)
    features = random.uniform(-1.2, 1.2, (count, 7))
    features[:, 1] = random.random(count) < 0.2  # age is missing
    features[:, 2:5] = np.eye(3)[random.integers(3, size=count)]
    target = {"binary": random.integers(2, size=count), "multiclass": random.integers(3, size=count)}
    y = target.get(kind, random.uniform(-2, 4, count))
    index = np.arange(count) if units is None else np.r_[np.arange(units), random.integers(units, size=count - units)]
    as_tensor = torch.tensor(y, dtype=torch.int64 if kind == "multiclass" else torch.float32)
    return Rows(torch.tensor(features, dtype=torch.float32), as_tensor, torch.tensor(index))


def _model(rule: Recipe, size: float = 0.5, seed: int = 0) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(seed)
    shape = (rule.cells.size, rule.outputs)
    part = np.concatenate([np.full(term.cells, 1 / term.cells) for term in rule.cells.terms])
    return {
        SHAPES: torch.from_numpy(random.uniform(-size, size, shape)),
        START: torch.zeros(rule.outputs, dtype=torch.float64),
        PART: torch.from_numpy(part),
        NOISE: torch.zeros(shape, dtype=torch.float64),
    }


def _take(rows: Rows, chosen: Any) -> Rows:
    return Rows(rows.features[chosen], rows.target[chosen], rows.unit_index[chosen])


def test_a_column_has_the_cells_that_its_schema_says() -> None:
    rule = _recipe(pairs=(("age", "rank"),), monotone={"age": "up"})
    found = [(term.name, term.kind, term.cells, term.monotone) for term in rule.cells.terms]
    wanted = [("age", "number", 5, 1), ("kind", "category", 3, 0), ("old", "flag", 2, 0), ("rank", "number", 4, 0)]
    assert found == [*wanted, ("age x rank", "pair", 4, 0)]
    features = torch.tensor([[-1.0, 0, 0, 1, 0, 1, 1.0], [0.2, 1, 1, 0, 0, 0, -0.1]])
    assert rule.cells.of(features).tolist() == [[0, 6, 9, 13, 15], [4, 5, 8, 11, 16]]


def test_every_row_has_one_cell_of_each_term_whatever_it_holds() -> None:
    rule = _recipe()
    strange = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -3.0, 0.0, 1.0])
    found = rule.cells.of(strange.expand(7, 7).T.contiguous())
    for place, column in zip(rule.cells.slices, found.T, strict=True):
        assert bool(((column >= place.start) & (column < place.stop)).all())


@pytest.mark.parametrize("name", ["kind", "old", "nobody"])
def test_only_numbers_rise_or_stand_in_pairs(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        _recipe(monotone={name: "up"})
    with pytest.raises(ValueError, match=name):
        _recipe(pairs=((name, "age"),))
    with pytest.raises(ValueError, match="several classes"):
        _recipe("multiclass", monotone={"age": "up"})


@pytest.mark.parametrize("kind", TARGETS)
def test_no_unit_moves_a_block_by_more_than_its_bound(kind: str) -> None:
    rule, closest = _recipe(kind, pairs=(("age", "rank"),)), 0.0
    for seed, size in product(range(2), (0.0, 1e6)):
        rows = _rows(60, kind, seed, units=20)
        model = _model(rule, size, seed)
        for message in (1, 2):
            (whole,), (bound,) = rule.exact(message, rows, model), rule.sensitivities(message)
            for unit in range(5):
                kept = rows.unit_index != unit
                less = _take(rows, kept)
                less = Rows(less.features, less.target, less.unit_index - (less.unit_index > unit).long())
                (rest,) = rule.exact(message, less, model)
                moved = float(np.linalg.norm(whole - rest))
                assert moved <= bound
                closest = max(closest, moved / bound)
    assert closest > 0.99  # so a bound that is a little smaller would not hold


@pytest.mark.parametrize("kind", TARGETS)
def test_what_a_row_adds_is_the_same_to_the_bit_in_any_batch_and_order(kind: str) -> None:
    rule, rows = _recipe(kind), _rows(97, kind)
    model = _model(rule)
    (whole,) = rule.exact(2, rows, model)
    (turned,) = rule.exact(2, _take(rows, torch.arange(96, -1, -1)), model)
    alone = [Rows(rows.features[i : i + 1], rows.target[i : i + 1], torch.zeros(1).long()) for i in range(97)]
    (single,) = [np.sum([rule.exact(2, row, model)[0] for row in alone], axis=0)]
    assert (whole == turned).all()
    assert (whole == single).all()


def test_a_row_that_is_not_finite_adds_nothing_to_the_gradients() -> None:
    rule, rows = _recipe("regression"), _rows(3, "regression")
    rows.target[1] = math.nan
    (found,) = rule.exact(2, rows, _model(rule))
    (less,) = rule.exact(2, Rows(rows.features[[0, 2]], rows.target[[0, 2]], torch.tensor([0, 1])), _model(rule))
    assert (found == less).all()


def _fitted(kind: str, rows: Rows, rounds: int = 40, **changes: Any) -> tuple[Recipe, dict[str, Any]]:
    rule = _recipe(kind, clip=2.0, **changes)
    state = dict(rule.build(TARGETS[kind]).state_dict())
    for message in range(1, rounds + 2):
        (sums,) = rule.exact(message, rows, state)
        state |= rule.advanced(message, state, Opened((sums,), (0.0,), len(rows.target)))
    return rule, state


@pytest.mark.parametrize("kind", TARGETS)
def test_without_noise_it_learns_what_is_additive(kind: str) -> None:
    rows = _rows(1000, kind)
    age, old = rows.features[:, 0].clamp(-1, 1), (rows.features[:, 5] > 0.5).float()
    age = torch.where(rows.features[:, 1] > 0.5, 0.0, (((age + 1) * 2).long().clamp(0, 3) - 1.5) / 2)
    truth = age + 0.8 * old
    if kind == "regression":
        rows.target[:] = 1.0 + truth
    else:
        rows.target[:] = ((truth > 0.4).long() + (kind == "multiclass") * (truth > 1).long()).to(rows.target.dtype)
    rule, state = _fitted(kind, rows)
    module = rule.build(TARGETS[kind])
    module.load_state_dict(state)
    output = module({"features": rows.features}).detach()
    if kind == "regression":
        assert float((output.squeeze() * 3 + 1 - rows.target).abs().mean()) < 0.05
    else:
        chosen = output.argmax(1) if kind == "multiclass" else (output.squeeze() > 0).long()
        assert float((chosen == rows.target.long()).double().mean()) > 0.95


def test_a_shape_is_centred_and_a_constant_is_learned_apart() -> None:
    rows = _rows(2000)
    rows.target[:] = (torch.arange(2000) % 10 == 0).float()
    rule, state = _fitted("binary", rows)
    assert float(torch.sigmoid(state[START])) == pytest.approx(0.1, abs=0.005)
    for place in rule.cells.slices:
        assert float((state[PART][place] * state[SHAPES][place, 0]).sum()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_monotone_shape_never_turns(way: str) -> None:
    _, state = _fitted("binary", _rows(500, seed=3), 5, monotone={"age": way})
    steps = np.diff(state[SHAPES][:4, 0].numpy())
    assert (steps >= 0).all() if way == "up" else (steps <= 0).all()


def test_pooling_gives_the_nearest_rising_sequence() -> None:
    assert monotone(np.array([3.0, 1.0, 2.0, 5.0]), np.array([1.0, 3.0, 1.0, 1.0])).tolist() == [1.5, 1.5, 2.0, 5.0]


def test_a_band_holds_what_noise_alone_does_to_a_shape() -> None:
    """Over 100 draws of the noise no cell's standard deviation is above the band's, nor far below."""
    rule, rows, rounds, deviation = _recipe(), _rows(300), 4, 10.0
    start = dict(rule.build(TARGETS["binary"]).state_dict())
    start |= rule.advanced(1, start, Opened(tuple(rule.exact(1, rows, start)), (0.0,), 300))
    random, ends = np.random.default_rng(5), []
    for _ in range(100):
        state = dict(start)
        for _ in range(rounds):
            (sums,) = rule.exact(2, rows, state)
            noisy = sums + random.normal(0, deviation, sums.shape)
            state |= rule.advanced(2, state, Opened((noisy,), (deviation,), 300))
        ends.append(state[SHAPES].numpy().ravel())
    spread, said = np.std(ends, axis=0), state[NOISE].sqrt().numpy().ravel()
    assert (spread <= 1.25 * said).all()
    assert float(np.median(spread / said)) > 0.3


def test_a_step_is_damped_by_the_noise() -> None:
    rule = _recipe()
    model = _model(rule, 0.0)
    now = Shapes(*(model[name].numpy() for name in (SHAPES, START, PART, NOISE)))
    sums = np.random.default_rng(1).normal(size=rule.cells.size)
    sizes = [
        np.abs(boosted(rule.cells, rule.outcome, now, sums, deviation, 100.0).shapes).sum()
        for deviation in (0.0, 10.0, 1000.0)
    ]
    assert sizes[0] > 2 * sizes[1] > 20 * sizes[2]
    assert curvatures(rule.outcome).tolist() == pytest.approx([0.16])


def test_all_messages_cost_alike_and_together_the_budget() -> None:
    assert (SHARES.messages, SHARES.least_part) == (21, pytest.approx(1 / math.sqrt(21)))
    z = solve(SHARES, 1.0, 1e-5)
    times, events = SHARES.plan(z, "record")
    assert (times, len(events)) == (21, 1)
    assert 0.995 < epsilon([resized(events[0], 21)], 1e-5) <= 1.0
    # By the Gaussian mechanism's own formula, without the ledger's accountant.
    assert math.sqrt(21) / events[0].noise_multiplier == pytest.approx(mu_of(1.0, 1e-5), rel=2e-3)


def test_a_spare_attempt_costs_one_message_where_all_are_alike_and_else_a_run() -> None:
    unlike = Shares("sums", ((0.1,), (0.27, 0.63)))
    assert SHARES.planned(1) == pytest.approx(22 / 21)
    assert unlike.planned(1) == 2
    assert SHARES.plan(2.0, "record", 1)[0] == 22
    assert unlike.plan(2.0, "record", 1)[0] == 2
    assert unlike.taken(1) == pytest.approx(0.9)
    assert unlike.taken(1, [1]) == pytest.approx(0.1)
    assert SHARES.taken(10) == pytest.approx(10 / 21)


def test_every_industry_has_cells() -> None:
    for name in ("bank", "factory", "hospital", "smart_home"):
        rule = recipe_of(registry.get(name).schema, SHARES, bins=16, pair_bins=6, clip=0.5)
        widths = [len(kinds) for _, kinds in registry.get(name).schema.feature_groups]
        assert sum(widths) == registry.get(name).schema.width
        assert rule.sensitivities(2) == (0.5 * math.sqrt(len(widths)),)
