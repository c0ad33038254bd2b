"""The audit on what was added last: clean on the source tree, and red where it is broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audited_scenario import SCENARIOS

from consortia.audit import adaptive, asking, block_sums
from consortia.audit.run import _parts, run
from consortia.audit.scenes import Deck
from consortia.audit.settings import Audit
from consortia.messages import request
from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant import readiness, secure_sum
from consortia.terms.contract import contract_from_json
from consortia.terms.scenario import scenario_from_toml
from privacy import _optimizer

pytestmark = [pytest.mark.usefixtures("quiet_participants"), pytest.mark.end_to_end]


@pytest.fixture
def audits(tmp_path: Path) -> Callable[[str], list[Audit]]:
    """Return the quick audits of a small scenario, one of each industry with terms of its own."""
    made: list[Path] = []

    def make(text: str) -> list[Audit]:
        made.append(tmp_path / str(len(made)))
        scenario = scenario_from_toml(text)
        whole = scenario.contract if scenario.contract.by_industry else None
        random = np.random.default_rng(7)
        return [
            Audit(part, made[-1] / str(place), quick=True, whole=whole, random=random)
            for place, part in enumerate(_parts(scenario))
        ]

    return make


def _laws(audits: Sequence[Audit]) -> set[str]:
    return {check.law for audit in audits for check in asking.run(audit, lambda _: None).violations}


def test_blocks_move_a_secure_sum_by_no_more_than_their_events(
    audits: Callable[[str], list[Audit]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (audit,) = audits(SCENARIOS["blocks"])
    members = block_sums.members(audit)
    decks = {one.name: Deck(audit.pool(one)) for one in members}
    games = [game for seed in (0, 1) for game in block_sums.play(audit, members, decks, seed)]
    assert not [game for game in games if game.lost]
    assert max(game.ratio for game in games) > 0.9  # so a bound that is a little smaller would not hold

    def whole(rule: Any, message: int, parts: Sequence[Any], weight: float) -> Any:
        bounds = rule.sensitivities(message)
        return np.concatenate([weight / bound * part for part, bound in zip(parts, bounds, strict=True)])

    monkeypatch.setattr(secure_sum, "scaled", whole)
    assert [game for game in block_sums.play(audit, members, decks, 0) if game.lost]


def test_a_participant_plans_by_its_own_industrys_terms(
    audits: Callable[[str], list[Audit]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(scenario_from_toml(SCENARIOS["industries"]), only=["asking"], quick=True)
    assert [one.instrument for one in found] == ["asking, bank", "asking, factory"]
    assert not [one.violations for one in found if one.violations]
    fields = request.common_fields

    def whole(header: Mapping[str, str]) -> dict[str, Any]:
        return {**fields(header), "contract": contract_from_json(header["contract"])}

    monkeypatch.setattr(request, "common_fields", whole)
    assert "a plan is of the industry's own terms" in _laws(audits(SCENARIOS["industries"]))


def test_ready_tells_nothing(audits: Callable[[str], list[Audit]], monkeypatch: pytest.MonkeyPatch) -> None:
    answer = readiness.answer

    def telling(work: Any, ledger: Any) -> bytes:
        envelope, rows = decode(answer(work, ledger)), len(work.partitions(ledger).train)
        return encode(Envelope({**envelope.header, "unit": str(rows)}, envelope.tensors))

    monkeypatch.setattr(readiness, "answer", telling)
    assert _laws(audits(SCENARIOS["one"])) == {"READY tells nothing about rows"}


def test_sums_keep_the_budget_of_a_run_against_a_greedy_coordinator(
    audits: Callable[[str], list[Audit]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not _laws(audits(SCENARIOS["additive"]))
    monkeypatch.setattr("privacy.ledger.within", lambda spent, plan: True)
    assert "the run's events keep its budget" in _laws(audits(SCENARIOS["additive"]))


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_an_adaptive_optimizer_sees_noise(
    name: str, audits: Callable[[str], list[Audit]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (audit,) = audits(SCENARIOS["adaptive"].replace('"adam"', f'"{name}"'))
    participant = audit.scenario.roster[0]
    assert min(check.p for check in adaptive.checks(audit, participant)) > 1e-6

    def exact(self: Any, closure: Any = None) -> Any:
        self.pre_step()
        self._noisy.copy_(self.total)
        self.scale_grad()
        return self.original_optimizer.step()

    monkeypatch.setattr(_optimizer.NoisyOptimizer, "step", exact)
    assert adaptive.checks(audit, participant)[0].p < 1e-6
