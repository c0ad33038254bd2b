"""Who contributed: exact Shapley values, their noise, and participants that bring nothing, the same, or the wrong."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import APP
from numpy.typing import NDArray
from typer.testing import CliRunner

from clients.schema import Column, Schema, Target
from consortia.learners import shapley
from consortia.learners.blocks.noise import solve
from consortia.learners.blocks.parts import Part
from consortia.learners.blocks.release import deviations
from consortia.learners.blocks.shares import Shares
from consortia.learners.sums import contributions as module
from consortia.learners.sums.combine import combined, precision_weights
from consortia.learners.sums.contributions import contributions
from consortia.learners.sums.model import Recipe, recipe_of
from consortia.learners.sums.solution import everybodys
from consortia.learners.sums.statistics import Rows, packed, second_message, unpacked
from consortia.reports.contributions import contribution_sections
from consortia.reports.page.render import page
from consortia.terms.recipe import recipe
from consortia.terms.scenario import load_scenario

Array = NDArray[np.float64]
SHARES = Shares("sums", ((0.10,), (0.27, 0.63)))
SCHEMA = Schema(
    name="made",
    version=1,
    columns=tuple(Column(name=f"x{i}", dtype="number", low=-1, high=1) for i in range(5)),
    target=Target(name="y", kind="binary", classes=("no", "yes")),
)
RULE = recipe_of(SCHEMA, SHARES, largest_radius=4.0)
CENTRE, RADIUS = torch.zeros(RULE.columns.width, dtype=torch.float64), torch.tensor([1.5], dtype=torch.float64)


def _site(generator: np.random.Generator, rows: int, kind: str = "honest") -> tuple[Array, Array]:
    x = generator.uniform(-1, 1, size=(rows, 5))
    score = 3 * x[:, 0] - 2 * x[:, 1] + 1.5 * x[:, 2] * x[:, 3]
    y = (generator.random(rows) < 1 / (1 + np.exp(-score))).astype(float)
    if kind == "made up":
        y = (generator.random(rows) < 0.5).astype(float)
    return x, 1 - y if kind == "flipped" else y


def _part(site: tuple[Array, Array], epsilon: float, generator: np.random.Generator) -> Part:
    """Return what a site releases; the noise is plain, for the mathematics alone."""
    x, y = (torch.from_numpy(one) for one in site)
    blocks = second_message(RULE.columns, RULE.outcome, Rows(x, y, torch.arange(len(x))), CENTRE, RADIUS)
    z = solve(SHARES, epsilon, 1e-5) if math.isfinite(epsilon) else 0.0
    noise = deviations(RULE, 2, z) if z else (0.0, 0.0)
    noisy = tuple(b + generator.normal(size=b.shape) * s for b, s in zip(blocks, noise, strict=True))
    return Part(noisy, z, float(len(x)))


def _brute_force(recipe: Recipe, parts: list[Part]) -> tuple[list[float], float]:
    """Return Shapley values by the definition, over orders, with the run's own model of each coalition."""
    size, units = recipe.columns.size, sum(part.units for part in parts)
    known: dict[frozenset[int], Array] = {frozenset(): np.zeros((size, recipe.outcome.directions))}

    def model(chosen: frozenset[int]) -> Array:
        if chosen not in known:
            some = [parts[i] for i in sorted(chosen)]
            known[chosen] = everybodys(combined(recipe, some, precision_weights(recipe, some)), recipe.outcome)
        return known[chosen]

    def worth(chosen: frozenset[int]) -> float:
        total = 0.0
        for j, part in enumerate(parts):
            w = model(chosen - {j})
            gram, slope = unpacked(part.blocks[0], size), part.blocks[1].reshape(size, -1)
            total += float(2 * (w * slope).sum() - np.trace(w.T @ gram @ w)) / units
        return total

    values = [0.0] * len(parts)
    orders = list(itertools.permutations(range(len(parts))))
    for order in orders:
        for place, i in enumerate(order):
            values[i] += worth(frozenset(order[: place + 1])) - worth(frozenset(order[:place]))
    return [value / len(orders) for value in values], worth(frozenset(range(len(parts))))


@pytest.mark.parametrize("epsilon", [3.0, math.inf])
def test_values_are_those_of_the_definition_and_sum_to_the_total(epsilon: float) -> None:
    generator = np.random.default_rng(1)
    parts = [_part(_site(generator, rows), epsilon, generator) for rows in (80, 200, 400, 50)]
    found = contributions(RULE, parts, generator)
    values, total = _brute_force(RULE, parts)
    assert found.values == pytest.approx(values, abs=1e-9)
    assert found.total == pytest.approx(total, abs=1e-9)
    assert math.fsum(found.values) == pytest.approx(found.total, abs=1e-9)
    assert not found.sampled


@pytest.mark.parametrize("kind", ["made up", "flipped"])
@pytest.mark.parametrize("releases", [3, pytest.param(20, marks=pytest.mark.end_to_end)])
def test_who_brings_nothing_or_the_wrong_is_last(kind: str, releases: int) -> None:
    last = harmful = 0
    for seed in range(releases):
        generator = np.random.default_rng(seed)
        sites = [_site(generator, 300) for _ in range(5)] + [_site(generator, 300, kind)]
        found = contributions(RULE, [_part(site, 3.0, generator) for site in sites], generator)
        last += int(found.values.argmin()) == 5
        harmful += found.values[5] < 0
    assert min(last, harmful) >= releases - releases // 20


def test_copies_are_found_where_noise_is_small_and_then_come_last() -> None:
    """With rows of their own nobody is taken for a copy."""
    found = last = 0
    for seed in range(4):
        generator = np.random.default_rng(seed)
        sites = [_site(generator, 1500) for _ in range(4)]
        parts = [_part(site, 3.0, generator) for site in (*sites, sites[3])]
        values = contributions(RULE, parts, generator)
        found += values.copies == ((3, 4),)
        last += set(values.values.argsort()[:2].tolist()) == {3, 4}
        assert module.copies(RULE, parts[:4]) == []
    assert found == 4
    assert last >= 3


def test_a_copy_judges_no_model_that_saw_its_rows() -> None:
    generator = np.random.default_rng(7)
    sites = [_site(generator, 200) for _ in range(3)]
    parts = [_part(site, math.inf, generator) for site in (*sites, sites[2])]
    found = contributions(RULE, parts, generator)
    assert found.copies == ((2, 3),)
    assert found.values[2] == pytest.approx(found.values[3], abs=1e-9)
    assert math.fsum(found.values) == pytest.approx(found.total, abs=1e-9)
    size, units = RULE.columns.size, 800.0
    total = 0.0
    for judge, others in ((0, (1, 2, 3)), (1, (0, 2, 3)), (2, (0, 1)), (3, (0, 1))):
        some = [parts[i] for i in others]
        w = everybodys(combined(RULE, some, precision_weights(RULE, some)), RULE.outcome)
        gram, slope = unpacked(parts[judge].blocks[0], size), parts[judge].blocks[1].reshape(size, 1)
        total += float((2 * w.T @ slope - w.T @ gram @ w)[0, 0]) / units
    assert found.total == pytest.approx(total, abs=1e-9)


@pytest.mark.end_to_end
def test_the_stated_deviation_is_that_of_repeated_releases() -> None:
    generator = np.random.default_rng(3)
    again = [
        contributions(RULE, [_part(_site(generator, 300), 3.0, generator) for _ in range(3)], generator)
        for _ in range(20)
    ]
    true = float(np.std([one.values for one in again], axis=0).mean())
    stated = float(np.mean([one.deviations for one in again]))
    assert 0.7 * true < stated < 1.5 * true


def test_with_many_participants_orders_are_sampled_and_the_sum_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every coalition of the same game, in which the same folds judge."""
    monkeypatch.setattr(shapley, "MOST_EXACT", 6)
    monkeypatch.setattr(module, "_MODELS", 1)
    monkeypatch.setattr(module, "_DRAWS", 10)
    generator = np.random.default_rng(5)
    parts = [_part(_site(generator, 200, kind), 3.0, generator) for kind in ["honest"] * 6 + ["flipped"]]
    judges: dict[int, int] = {}
    genuine = module._others

    def others(judge: int, same: list[tuple[int, int]], folds: list[int]) -> int:
        return judges.setdefault(judge, genuine(judge, same, folds))

    monkeypatch.setattr(module, "_others", others)
    found = contributions(RULE, parts, generator)
    assert found.sampled
    assert len({mask.bit_count() for mask in judges.values()}) == 2  # 5 folds of 7
    assert math.fsum(found.values) == pytest.approx(found.total, abs=1e-9)
    assert int(found.values.argmin()) == 6
    monkeypatch.setattr(shapley, "MOST_EXACT", 7)
    exact = contributions(RULE, parts, generator)
    assert not exact.sampled
    assert found.total == pytest.approx(exact.total, abs=1e-12)
    assert (np.abs(found.values - exact.values) < 3 * found.deviations).all()
    assert np.abs(found.values - exact.values).max() < 0.35 * np.abs(exact.values).mean()


def test_one_participant_has_nobody_to_judge_it() -> None:
    generator = np.random.default_rng(1)
    with pytest.raises(ValueError, match="at least 2"):
        contributions(RULE, [_part(_site(generator, 50), 3.0, generator)], generator)


def _folder(tmp_path: Path, scenario: str) -> Path:
    (tmp_path / "scenario.json").write_text(load_scenario(scenario).to_json(), encoding="utf-8")
    return tmp_path


def test_the_command_names_participants_in_order_and_the_page_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = load_scenario("banks")
    rule, generator = recipe(scenario.contract, "bank"), np.random.default_rng(2)
    parts = {}
    for name in ("other", "new-car", "<b>copy"):
        rows = generator.normal(size=(300, rule.columns.size)) / rule.columns.size**0.5
        slope = rows.T @ (rows[:, 1] * 3)
        parts[name] = Part((packed(rows.T @ rows), slope), 0.0, 300.0)
    parts["<b>copy"] = parts["other"]
    monkeypatch.setattr("consortia.models.contributions.parts_of_run", lambda *_: parts)
    folder = _folder(tmp_path, "banks")
    call = CliRunner().invoke(APP, ["contributions", str(folder), "--json"])
    assert call.exit_code == 0, call.output
    (found,) = json.loads(call.output)
    assert found["participants"][0]["participant"] == "new-car"
    assert math.fsum(line["value"] for line in found["participants"]) == pytest.approx(found["total"], abs=1e-9)
    assert {tuple(line["copies"]) for line in found["participants"]} == {("<b>copy",), ("other",), ()}
    assert CliRunner().invoke(APP, ["contributions", str(folder)]).exit_code == 0
    text = page("Who", contribution_sections(folder))
    assert "same rows as" in text
    assert "<b>copy" not in text


@pytest.mark.parametrize(
    ("scenario", "words"), [("secure-banks", "the total only"), ("banks-network", "sums"), ("", "finished run")]
)
def test_what_cannot_be_known_is_said(tmp_path: Path, scenario: str, words: str) -> None:
    folder = _folder(tmp_path, scenario) if scenario else tmp_path
    call = CliRunner().invoke(APP, ["contributions", str(folder)])
    assert call.exit_code == 2
    assert words in " ".join(call.output.split())
    assert contribution_sections(folder) == []
