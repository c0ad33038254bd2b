"""Importance, curves and rows of a model of released sums: against brute force, and on planted and shuffled columns."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from targets import TARGETS

from clients.schema import Column, Schema
from consortia.learners.blocks.noise import solve
from consortia.learners.blocks.shares import Shares
from consortia.learners.sums.attribution import margins, moments, parts, redrawn, spreads
from consortia.learners.sums.model import CENTRE, RADIUS, WEIGHTS, Recipe, build, recipe_of
from consortia.learners.sums.solution import Released, centre_and_radius, everybodys
from consortia.learners.sums.statistics import Rows, first_message, second_message, unpacked
from consortia.models.explain.points import points_of, reference_rows
from consortia.models.explain.sums import explain_sums, row_parts

Array = NDArray[np.float64]
SHARES = Shares("sums", ((0.10,), (0.27, 0.63)))
NUMBERS = ("planted", "helper", "shuffled", "idle")


def _schema(kind: str = "binary") -> Schema:
    return Schema(
        name="made",
        version=1,
        columns=(
            *(Column(name=name, dtype="number", low=0, high=8, nullable=name == "idle") for name in NUMBERS),
            Column(name="colour", dtype="category", categories=("red", "green", "blue")),
            Column(name="grade", dtype="category", categories=("low", "mid", "high"), scores=(-1.0, 0.0, 1.0)),
            Column(name="flag", dtype="flag"),
        ),
        target=TARGETS[kind],
    )


def _features(count: int, generator: np.random.Generator) -> Array:
    return reference_rows(points_of(_schema()), count, generator)


def _target(kind: str, x: Array, generator: np.random.Generator) -> Array:
    score = 1.5 * x[:, 0] + 0.4 * x[:, 1] + 0.5 * x[:, 0] * x[:, 1]
    if kind == "regression":
        return np.clip(10 + 8 * score + generator.normal(size=len(x)), -10, 30)
    if kind == "multiclass":
        return np.digitize(score + generator.normal(size=len(x)), [-0.5, 0.5])
    return (generator.random(len(x)) < 1 / (1 + np.exp(-2 * score))).astype(float)


def _released(
    kind: str, count: int, epsilon: float, generator: np.random.Generator
) -> tuple[Recipe, dict[str, torch.Tensor], Released]:
    """Return a recipe and what is released of `count` rows; the noise is plain, for the mathematics alone."""
    rule = recipe_of(_schema(kind), SHARES, largest_radius=4.0)
    x = _features(count, generator)
    rows = Rows(torch.from_numpy(x), torch.from_numpy(_target(kind, x, generator)), torch.arange(count))
    z = solve(SHARES, epsilon, 1e-5) if math.isfinite(epsilon) else 0.0
    deviations = [s * z / math.sqrt(f) for s, f in zip(rule.sensitivities(2), SHARES.of(2), strict=True)]
    first = first_message(rule.columns, rows)
    first = first + generator.normal(size=first.shape) * rule.columns.first_bound * z / math.sqrt(SHARES.of(1)[0])
    centre, radius = centre_and_radius(first, count, np.asarray(rule.columns.squared), 4.0)
    state = {CENTRE: torch.from_numpy(centre), RADIUS: torch.tensor([radius], dtype=torch.float64)}
    gram, slope = second_message(rule.columns, rule.outcome, rows, state[CENTRE], state[RADIUS])
    gram = gram + generator.normal(size=gram.shape) * deviations[0]
    slope = slope + generator.normal(size=slope.shape) * deviations[1]
    size, directions = rule.columns.size, rule.outcome.directions
    released = Released(unpacked(gram, size), slope.reshape(size, directions), *deviations, float(count))
    return rule, {**state, WEIGHTS: torch.from_numpy(everybodys(released, rule.outcome))}, released


@pytest.mark.parametrize("kind", TARGETS)
def test_parts_of_a_row_add_up_to_the_models_own_output(kind: str) -> None:
    generator = np.random.default_rng(1)
    rule, state, _ = _released(kind, 500, math.inf, generator)
    module = build(rule, _schema(kind).target)
    module.load_state_dict(state)
    x = torch.from_numpy(_features(200, generator))
    start, found, rest = row_parts(rule, points_of(_schema(kind)), state, x)
    total = start + found.sum(axis=1) + rest
    outputs = module({"features": x.float()}).numpy()
    if kind == "regression":
        shown = outputs * rule.outcome.half + rule.outcome.middle
        assert np.abs(total - shown).max() < 1e-5
    else:
        shown = 1 / (1 + np.exp(-outputs)) if kind == "binary" else np.exp(outputs)
        inside = (total > 0.003) & (total < 0.997)
        assert inside.mean() > 0.5
        assert np.abs(total - shown)[inside].max() < 1e-5
    short = np.asarray(rule.columns.centred(x, state[CENTRE]).norm(dim=1)) <= float(state[RADIUS])
    assert 0.2 < short.mean() < 1
    assert np.abs(rest[short]).max() < 1e-12


def test_parts_are_shapley_values_by_brute_force() -> None:
    """Every coalition of columns, the others averaged over independent columns with the released means."""
    generator = np.random.default_rng(2)
    rule, state, _ = _released("binary", 400, 3.0, generator)
    points, centre, radius = points_of(_schema()), state[CENTRE].numpy(), float(state[RADIUS])
    x = _features(40, generator)
    length = rule.columns.centred(torch.from_numpy(x), state[CENTRE]).norm(dim=1)
    row = x[int(length.argmin())]
    _, found, rest = row_parts(rule, points, state, torch.from_numpy(row[None]))
    assert np.abs(rest).max() < 1e-12
    weights = state[WEIGHTS].numpy()[:, 0]
    own = rule.columns.expand(torch.from_numpy(row[None])).numpy()[0]

    def value(chosen: frozenset[int]) -> float:
        """Return the expected value with the chosen columns at the row: means of all others, products of means."""
        known = {feature for group in chosen for feature in points[group].positions}
        mean = np.array([row[f] if f in known else centre[f] for f in range(rule.columns.features)])
        columns = [
            (own[place] if origin[0] in known else centre[place])
            if len(origin) == 1
            else rule.columns.pair_factor * mean[origin[0]] * mean[origin[1]]
            for place, origin in enumerate(rule.columns.origins)
        ]
        return float(np.concatenate([[0.5], np.array(columns) - centre]) @ weights / radius)

    count = len(points)
    for group in range(count):
        others = [other for other in range(count) if other != group]
        total = 0.0
        for size in range(count):
            share = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            for chosen in itertools.combinations(others, size):
                total += share * (value(frozenset({*chosen, group})) - value(frozenset(chosen)))
        assert found[0, group, 0] == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("epsilon", [3.0, math.inf])
def test_a_planted_column_is_first_and_a_shuffled_one_grey(epsilon: float) -> None:
    first = grey = 0
    for seed in range(6):
        rule, state, released = _released("binary", 1500, epsilon, np.random.default_rng(seed))
        effects = explain_sums(f"made {seed}", _schema(), rule, state, released).effects
        first += effects[0].column == "planted" and effects[0].clear is True
        grey += all(not effect.clear for effect in effects if effect.column in ("shuffled", "idle", "colour"))
    assert first == 6
    assert grey >= 5


def test_the_interval_covers_what_no_noise_would_have_given() -> None:
    """Of all columns together, in 10 releases of the same kind: the spread that the weights without noise have."""
    covered = 0
    for seed in range(10):
        generator = np.random.default_rng(100 + seed)
        rule, state, released = _released("binary", 1500, 3.0, generator)
        many = _features(20_000, generator)
        rows = Rows(
            torch.from_numpy(many), torch.from_numpy(_target("binary", many, generator)), torch.arange(len(many))
        )
        gram, slope = second_message(rule.columns, rule.outcome, rows, state[CENTRE], state[RADIUS])
        share = 1500 / len(many)
        exact = Released(
            unpacked(gram, rule.columns.size) * share, slope.reshape(-1, 1) * share, 0.0, 0.0, released.units
        )
        free, second = everybodys(exact, rule.outcome), moments(released)
        maps, _ = parts(rule.columns, state[CENTRE].numpy(), [one.positions for one in points_of(_schema())])
        weights = state[WEIGHTS].numpy()
        again = redrawn(released, rule.outcome, 100, generator)
        room = margins(spreads(maps, second, again - weights))
        covered += bool((np.abs(spreads(maps, second, weights) - spreads(maps, second, free)) <= room).all())
    assert covered >= 8


def test_a_curve_rises_where_the_column_does_and_shows_what_noise_leaves_open() -> None:
    rule, state, released = _released("regression", 3000, 3.0, np.random.default_rng(5))
    explanation = explain_sums("made", _schema("regression"), rule, state, released)
    effects = {effect.column: effect for effect in explanation.effects}
    curve = effects["planted"].curve
    assert curve.places[0] == 0
    assert curve.places[-1] == 8
    assert curve.values[-1] - curve.values[0] == pytest.approx(24, rel=0.3)  # 8 x 1.5 x 2, in the target's unit
    assert all(low < value < high for low, value, high in zip(curve.lows, curve.values, curve.highs, strict=True))
    assert effects["idle"].curve.names[-1] == "missing"
    assert effects["idle"].curve.places[-1] is None
    assert effects["colour"].curve.names == ("red", "green", "blue")
    assert effects["grade"].curve.names == ("low", "mid", "high")
    assert effects["flag"].curve.names == ("no", "yes")
