"""The neighbour game of statistics before training on the real path, and that planted mistakes lose it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from block_games import play

from consortia.audit import statistics_games
from consortia.audit.settings import Audit
from consortia.learners.statistics import layout as learner
from consortia.learners.sums.statistics import Rows
from consortia.terms.recipe import layout
from consortia.terms.scenario import load_scenario
from consortia.terms.statistics_scenario import statistics_scenario

pytestmark = pytest.mark.usefixtures("quiet_participants")


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    return Audit(statistics_scenario(load_scenario("hospitals-network")), tmp_path, quick=True)


def test_no_unit_moves_the_vector_by_more_than_its_event_was_charged(audit: Audit) -> None:
    games = play(audit, range(1))
    assert {game.path for game in games} == {"statistics, message 1"}
    assert not [game for game in games if game.lost]
    assert max(game.ratio for game in games) > 0.5  # units come close to the bound, so a wrong bound shows


def _row_by_row(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Rows, "shares", lambda self: torch.ones(len(self.target), 1, dtype=torch.float64))


def _without_moments(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(learner.Layout, "bound", property(lambda self: 0.9 * len(self.columns) ** 0.5))


def _bins_of_the_data(patch: pytest.MonkeyPatch) -> None:
    real = learner.StatedColumn.cell

    def cell(self: learner.StatedColumn, features: torch.Tensor) -> torch.Tensor:
        return real(self, features - features.mean(dim=0) if self.kind == "number" else features)

    patch.setattr(learner.StatedColumn, "cell", cell)


@pytest.mark.end_to_end
@pytest.mark.parametrize("plant", [_row_by_row, _without_moments, _bins_of_the_data])
def test_a_planted_mistake_loses_the_game(plant: object, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)  # type: ignore[operator]
    assert [game for game in play(audit, range(4)) if game.lost]


@pytest.mark.end_to_end
def test_the_noise_that_leaves_has_the_charged_law(audit: Audit) -> None:
    findings = statistics_games.run(audit, lambda _: None)
    assert len(findings.checks) == 4
    assert not findings.violations


@pytest.mark.parametrize("industry", ["hospital", "bank", "smart_home", "factory"])
def test_the_vector_counts_alike_by_plain_loops(industry: str) -> None:
    from clients import registry
    from clients.dataset import prepare

    client = registry.get(industry)
    frame = client.synthesise(np.random.default_rng(3), 40, client.sites[0])
    table = prepare(client, frame)
    rule = learner.layout_of(client.schema, 6)
    # Four rows of one unit weigh a quarter each.
    shared = table.unit_index.clone()
    shared[:4] = shared[0]
    _, index = torch.unique(shared, return_inverse=True)
    rows = Rows(table.inputs["features"], table.target, index)
    exact = rule.vector(rows)
    object.__setattr__(table, "unit_index", index)
    assert np.abs(exact - statistics_games.count(rule, 1, table, {})[0]).max() < 1e-4
    column = rule.columns[0]
    assert exact[rule.slices[column.name, "cells"]].sum() == pytest.approx(len(torch.unique(index)), abs=1e-4)


@pytest.mark.parametrize("industry", ["hospital", "bank", "factory"])
def test_a_row_at_the_public_bounds_reaches_the_bound_and_no_more(industry: str) -> None:
    from clients import registry

    rule = learner.layout_of(registry.get(industry).schema, 6)
    width = max(max((*column.places, column.missing or 0)) for column in rule.columns) + 1
    features = torch.zeros(1, width)
    features[:, [column.places[0] for column in rule.columns if column.kind == "number"]] = 1.0
    one = torch.zeros(1, dtype=torch.int64)
    assert np.linalg.norm(rule.vector(Rows(features, one.float(), one))) == pytest.approx(rule.bound, rel=1e-6)


def test_the_layout_comes_from_the_contract_alone() -> None:
    contract = statistics_scenario(load_scenario("hospitals-network"), bins=5).contract
    rule = layout(contract, "hospital")
    assert {len(column.labels) for column in rule.columns if column.kind == "number"} == {5}
    assert rule.length == sum(rule.lengths(1)) == rule.slices[list(rule.slices)[-1]].stop
