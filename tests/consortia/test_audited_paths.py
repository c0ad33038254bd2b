"""The audit's instruments on the paths beside local training: clean on the source tree, and red where one is broken."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audited_scenario import SCENARIOS

import consortia.coordinator.trusted_rounds
import consortia.messages.size_release
import consortia.participant.data
import consortia.participant.training
import consortia.vertical.partner
import privacy.secure_sum.fixed_point
import privacy.stacked
from consortia.audit import coordinator, message_games, phases, sizes, sums, vectorised, vertical
from consortia.audit.result import Findings
from consortia.audit.run import INSTRUMENTS, why_not
from consortia.audit.scenes import Deck
from consortia.audit.settings import Audit
from consortia.terms.scenario import load_scenario
from privacy.central import draw
from privacy.histogram import HistogramNoise
from privacy.randomized_response import respond


@pytest.fixture
def audit_of(tmp_path: Path) -> Iterator[Callable[[str], Audit]]:
    """Return the quick audit of one of the small scenarios."""
    logger = logging.getLogger("consortia.participant")
    logger.setLevel(logging.CRITICAL)

    def make(name: str) -> Audit:
        folder = tmp_path / name
        folder.mkdir()
        file = folder / "scenario.toml"
        file.write_text(SCENARIOS[name], encoding="utf-8")
        return Audit(load_scenario(str(file)), folder, quick=True, random=np.random.default_rng(7))

    yield make
    logger.setLevel(logging.NOTSET)


def _laws(findings: Findings) -> set[str]:
    return {check.law for check in findings.violations}


@pytest.mark.parametrize(
    ("scenario", "skipped"),
    [
        ("local", {"statistics", "sums", "coordinator", "vertical"}),
        ("sums", {"statistics", "coordinator", "vertical", "vectorised"}),
        ("coordinator", {"asking", "statistics", "sums", "vertical"}),
        ("vertical", set(INSTRUMENTS) - {"vertical", "neighbours"}),
    ],
)
def test_what_a_scenario_has_nothing_for_is_skipped_with_a_reason(
    audit_of: Callable[[str], Audit], scenario: str, skipped: set[str]
) -> None:
    audit = audit_of(scenario)
    reasons = {name: why_not(name, audit) for name in INSTRUMENTS}
    assert {name for name, reason in reasons.items() if reason} == skipped
    assert all("contract." in reason for name, reason in reasons.items() if reason)


@pytest.mark.end_to_end
def test_a_size_has_the_charged_noise(audit_of: Callable[[str], Audit], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _laws(sizes.run(audit_of("local"), lambda _: None))

    def half(mechanism: Any, multiplier: float) -> HistogramNoise:
        return HistogramNoise(mechanism, multiplier / 4)

    monkeypatch.setattr(consortia.messages.size_release, "HistogramNoise", half)
    assert "a size is the number of units plus the charged noise" in _laws(sizes.run(audit_of("sums"), lambda _: None))


@pytest.mark.end_to_end
def test_every_step_that_moves_a_parameter_is_noised_and_charged(
    audit_of: Callable[[str], Audit], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not _laws(phases.run(audit_of("local"), lambda _: None))
    audit = audit_of("sums")
    participant = next(audit.one_per_industry())
    deck = Deck(audit.pool(participant))
    assert not [game for game in message_games.scene(audit, participant, deck, "FedRep", 3) if game.lost]
    original = consortia.participant.training.phases

    def more(*args: Any) -> Any:
        for steps in original(*args):
            yield steps + 1

    monkeypatch.setattr(consortia.participant.training, "phases", more)
    assert [game for game in message_games.scene(audit, participant, deck, "FedRep", 4) if game.lost]


@pytest.mark.end_to_end
def test_a_training_unit_moves_no_metric(audit_of: Callable[[str], Audit], monkeypatch: pytest.MonkeyPatch) -> None:
    audit = audit_of("local")
    participant = next(audit.one_per_industry())
    deck = Deck(audit.pool(participant))
    played = message_games.scene(audit, participant, deck, "metrics", 3)
    assert {game.path for game in played} >= {"metrics"}
    assert not [game for game in played if game.lost]
    original = consortia.participant.data.assign

    def shifted(*args: Any) -> Any:
        where = original(*args)
        where[: len(where) // 2] = "test"
        return where

    monkeypatch.setattr(consortia.participant.data, "assign", shifted)
    played = [game for seed in (3, 5) for game in message_games.scene(audit, participant, deck, "metrics", seed)]
    assert [game for game in played if game.lost]


@pytest.mark.end_to_end
def test_a_coordinator_draws_at_the_contracts_rate(
    audit_of: Callable[[str], Audit], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not _laws(coordinator.run(audit_of("coordinator"), lambda _: None))

    def everybody_twice(participants: int, plan: Any, generator: Any) -> Any:
        one, other = draw(participants, plan, generator), draw(participants, plan, generator)
        return one if len(one) > len(other) else other

    monkeypatch.setattr(consortia.coordinator.trusted_rounds, "draw", everybody_twice)
    (rate, *_) = coordinator._draws(_again(audit_of))
    assert rate.law == "who is asked is drawn at the contract's rate"
    assert rate.p < 1e-4


def _again(audit_of: Callable[[str], Audit]) -> Audit:
    audit = audit_of("sums")
    file = audit.folder / "again.toml"
    file.write_text(SCENARIOS["coordinator"], encoding="utf-8")
    return Audit(load_scenario(str(file)), audit.folder, quick=True)


@pytest.mark.end_to_end
def test_scores_have_the_charged_noise(audit_of: Callable[[str], Audit], monkeypatch: pytest.MonkeyPatch) -> None:
    audit = audit_of("vertical")
    assert not _laws(vertical.run(audit, lambda _: None))

    def less(values: Any, classes: int, epsilon: float, **entropy: Any) -> Any:
        return respond(values, classes, epsilon + 2.0, **entropy)

    monkeypatch.setattr(consortia.vertical.partner, "respond", less)
    audit.folder = audit.folder / "again"
    audit.folder.mkdir()
    assert "values are kept with the charged probability" in _laws(vertical.run(audit, lambda _: None))


@pytest.mark.end_to_end
def test_a_sum_holds_every_share_of_noise(audit_of: Callable[[str], Audit], monkeypatch: pytest.MonkeyPatch) -> None:
    audit = audit_of("sums")
    assert not _laws(sums.run(audit, lambda _: None))
    original = privacy.secure_sum.fixed_point.rounded_gaussian
    monkeypatch.setattr(
        privacy.secure_sum.fixed_point,
        "rounded_gaussian",
        lambda count, std, context: original(count, std / 2, context),
    )
    broken = _laws(sums.run(audit, lambda _: None))
    assert "what opens is the clipped units of all members, plus noise of the promised size" in broken


@pytest.mark.end_to_end
def test_a_crowd_has_the_charged_noise(audit_of: Callable[[str], Audit], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _laws(vectorised.run(audit_of("local"), lambda _: None))
    original = privacy.stacked.fill_normal
    monkeypatch.setattr(privacy.stacked, "fill_normal", lambda out, std, source: original(out, std / 2, source))
    audit = audit_of("sums")
    findings = Findings("vectorised")
    vectorised._law(audit, next(audit.one_per_industry()), findings)
    assert "an update is the clipped sum over the public normaliser, plus the charged noise" in _laws(findings)
