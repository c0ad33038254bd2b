"""The neighbour game of the learner `additive` on the real path, and that a planted mistake loses it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from block_games import play

from consortia.audit import statistics_games
from consortia.audit.settings import Audit
from consortia.learners.additive import histograms
from consortia.learners.additive.model import Recipe
from consortia.learners.blocks.rows import Rows
from consortia.terms.scenario import load_scenario
from privacy.secure_noise import Grid

pytestmark = pytest.mark.usefixtures("quiet_participants")


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    return Audit(load_scenario("factories"), tmp_path, quick=True)


def test_no_unit_moves_a_block_by_more_than_its_event_was_charged(audit: Audit) -> None:
    games = play(audit, range(3), 2)
    assert {game.path for game in games} == {"additive, message 1", "additive, message 2"}
    assert not [game for game in games if game.lost]
    assert max(game.ratio for game in games) > 0.9  # units come close to the bound, so a wrong bound shows


def _no_clip(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(histograms, "lengths", lambda vectors: torch.zeros(len(vectors), 1, dtype=torch.float64))


def _row_by_row(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Rows, "shares", lambda self: torch.full((len(self.target), 1), 1.1, dtype=torch.float64))


def _one_column(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Recipe, "sensitivities", lambda self, message: (1.0 if message == 1 else self.clip,))


def _mean_of_the_batch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        histograms, "lengths", lambda vectors: vectors.norm(dim=1, keepdim=True).mean().expand(len(vectors), 1)
    )


def _no_room_on_the_grid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Grid, "sensitivity", property(lambda self: 0.5 * self.clip / self.step))


@pytest.mark.end_to_end
@pytest.mark.parametrize("plant", [_no_clip, _row_by_row, _one_column, _mean_of_the_batch, _no_room_on_the_grid])
def test_a_planted_mistake_loses_the_game(plant: object, audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)  # type: ignore[operator]
    assert [game for game in play(audit, range(4), 2) if game.lost]


@pytest.mark.end_to_end
def test_the_noise_that_leaves_has_the_charged_law(audit: Audit) -> None:
    findings = statistics_games.run(audit, lambda _: None)
    assert len(findings.checks) == 4
    assert not findings.violations
