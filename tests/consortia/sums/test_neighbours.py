"""The neighbour game of the learner `sums` on the real path, and that a planted mistake loses it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from block_games import play

from consortia.audit import statistics_games
from consortia.audit.settings import Audit
from consortia.learners.sums import statistics
from consortia.learners.sums.model import Recipe
from consortia.learners.sums.outcome import Outcome
from consortia.terms.scenario import load_scenario
from privacy.secure_noise import Grid

pytestmark = pytest.mark.usefixtures("quiet_participants")


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    return Audit(load_scenario("banks"), tmp_path, quick=True)


def test_no_unit_moves_a_block_by_more_than_its_event_was_charged(audit: Audit) -> None:
    games = play(audit, range(3))
    assert {game.path for game in games} == {"sums, message 1", "sums, message 2"}
    assert not [game for game in games if game.lost]
    assert max(game.ratio for game in games) > 0.5  # units come close to the bound, so a wrong bound shows


def _no_clip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(statistics, "_lengths", lambda vectors: torch.zeros(len(vectors), 1, dtype=torch.float64))


def _row_by_row(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(statistics.Rows, "shares", lambda self: torch.ones(len(self.target), 1, dtype=torch.float64))


def _shares_of_a_batch(patch: pytest.MonkeyPatch) -> None:
    real = statistics.on_grid
    patch.setattr(statistics, "on_grid", lambda values, steps: real(values * math.sqrt(len(values)) / 3, steps))


def _small_radius(patch: pytest.MonkeyPatch) -> None:
    bound = statistics.Columns.first_bound.fget
    assert bound is not None
    patch.setattr(Recipe, "sensitivities", lambda self, m: (bound(self.columns) / 2,) if m == 1 else (1.0, 0.7))


def _half_a_target(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Outcome, "sensitivity", property(lambda self: 0.35))


def _no_room_on_the_grid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Grid, "sensitivity", property(lambda self: 0.5 * self.clip / self.step))


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "plant", [_no_clip, _row_by_row, _shares_of_a_batch, _small_radius, _half_a_target, _no_room_on_the_grid]
)
def test_a_planted_mistake_loses_the_game(plant: object, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)  # type: ignore[operator]
    assert [game for game in play(audit, range(8)) if game.lost]


@pytest.mark.end_to_end
def test_the_noise_that_leaves_has_the_charged_law(audit: Audit) -> None:
    findings = statistics_games.run(audit, lambda _: None)
    assert len(findings.checks) == 4
    assert not findings.violations


@pytest.mark.end_to_end
@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_noise_of_another_size_is_seen(factor: float, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Grid.release
    monkeypatch.setattr(Grid, "release", lambda self, total, z, stream: real(self, total, z * factor, stream))
    broken = {check.law for check in statistics_games.run(audit, lambda _: None).violations}
    assert "noise has the charged size" in broken


def test_the_blocks_count_alike_by_plain_loops(audit: Audit) -> None:
    participant = audit.scenario.roster[0]
    pool = audit.pool(participant)
    table = pool.encode(pool.frame.iloc[:20], "record")
    contract = statistics_games.stated(audit.contract, "bank")
    rule = statistics_games.blocks_of(contract, "bank")
    model = statistics_games.shared_start(contract, "bank")
    counted = statistics_games.count(rule, 2, table, model)
    rows = statistics.Rows(table.inputs["features"], table.target, table.unit_index)
    summed = statistics.second_message(rule.columns, rule.outcome, rows, *model_parts(model))
    for one, other in zip(counted, summed, strict=True):
        assert np.abs(one - other).max() < 1e-3


def model_parts(model: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return model["encoder.centre"], model["encoder.radius"]
