"""The learner `sums` over secure sums: what opens, its noise, budgets that differ, drop-outs, what stays at home."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from secure_town import Town, lost

from consortia.common.errors import RunFailedError
from consortia.coordinator.checkpoint import load_latest
from consortia.coordinator.sums import beside
from consortia.messages.blocks import scaled, unscaled
from consortia.messages.sums import NO_PART, ToHome
from consortia.participant import own_sums, sums_at_home
from consortia.terms.recipe import recipe
from consortia.terms.settle import fixed_point
from privacy.accounting import epsilon
from privacy.ledger import Ledger
from privacy.observation import Note, observing

BASE = "secure-banks"
TWO = {"mode": "two", "drops": 1, "colluders": 1, "min_cohort": 3, "spare": 0}


def _played(town: Town) -> tuple[dict[str, Any], list[Note]]:
    with observing() as notes:
        record = town.run()
    return record, [note for note in notes if note.where == "share"]


def _coming_home(town: Town, name: str) -> ToHome:
    state = load_latest(town.folder / "out")
    assert state is not None
    return ToHome.from_tensors(recipe(town.scenario.contract, "bank"), beside(town.scenario, state.memory)[name])


def _check_total(town: Town, summed: list[Note], parts: int, asked: int) -> None:
    """What opened is the sum of the scaled blocks, plus noise of the planned size."""
    rule = recipe(town.scenario.contract, "bank")
    code = fixed_point(town.scenario.contract)
    exact = np.sum([note.exact for note in summed], axis=0)
    came = _coming_home(town, "new-car").released
    deviation = code.share_std(asked) * code.step * math.sqrt(parts)
    gram, slope = unscaled(rule, 2, exact)
    size = rule.columns.size
    noise = np.r_[
        (came.gram - own_part(gram, size))[np.triu_indices(size)] * _packing(size) / came.gram_deviation,
        (came.slope.ravel() - slope) / came.slope_deviation,
    ]
    assert len(noise) == sum(rule.lengths(2))
    assert np.square(noise).mean() == pytest.approx(1, abs=5 * math.sqrt(2 / len(noise)))
    shares, sensitivities = rule.shares.of(2), rule.sensitivities(2)
    assert came.gram_deviation == pytest.approx(deviation * sensitivities[0] / math.sqrt(shares[0]))
    assert came.slope_deviation == pytest.approx(deviation * sensitivities[1] / math.sqrt(shares[1]))


def own_part(gram: Any, size: int) -> Any:
    from consortia.learners.sums.statistics import unpacked

    return unpacked(gram, size)


def _packing(size: int) -> Any:
    """Noise beside the diagonal is smaller by the root of 2."""
    rows, columns = np.triu_indices(size)
    return np.where(rows == columns, 1.0, math.sqrt(2))


def test_what_opens_is_the_weighted_sum_with_the_planned_noise(tmp_path: Path) -> None:
    town = Town(tmp_path, base=BASE, participants=3, epsilon=("used-car=0.5", "new-car=2"))
    record, notes = _played(town)
    assert record["status"] == "completed"
    members = len(town.homes)
    assert len(notes) == 2 * members
    _check_total(town, notes[members:], members, members)
    terms = town.scenario.contract.secure_terms
    for name in town.homes:
        with Ledger.open(town.homes[name].ledger, name) as ledger:
            plan, entries = ledger.plan("run-1"), ledger.entries("run-1")
        assert plan is not None
        # C_i = S / sigma_i: whoever has the smallest budget weighs least.
        assert plan.clip * plan.noise_multiplier == pytest.approx(terms.noise)
        events = [event for entry in entries for event in entry.events]
        assert [len(entry.events) for entry in entries] == [1, 2]
        participant = town.scenario.participant(name)
        assert participant.epsilon * (1 - 1e-3) <= epsilon(events, participant.delta) <= participant.epsilon
    weights = {name: terms.noise / _multiplier(town, name) for name in town.homes}
    assert weights["new-car"] == pytest.approx(1)
    assert weights["used-car"] < weights["furniture"] < 0.7


def _multiplier(town: Town, name: str) -> float:
    with Ledger.open(town.homes[name].ledger, name) as ledger:
        plan = ledger.plan("run-1")
    assert plan is not None
    return plan.noise_multiplier


@pytest.mark.end_to_end
def test_a_member_takes_exactly_its_own_words_off_and_then_deletes_them(tmp_path: Path) -> None:
    town = Town(tmp_path, base=BASE, participants=3)
    record, notes = _played(town)
    file = town.homes["furniture"].folder / "runs" / "run-1" / "own-sums.safetensors"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    part, came = own_sums.sent(town.homes["furniture"], "run-1"), _coming_home(town, "furniture")
    assert part is not None
    assert part.key == came.own.key != NO_PART
    rule = recipe(town.scenario.contract, "bank")
    at_home = sums_at_home.SumsAtHome.of("furniture", part, town.scenario.contract, "bank", {}, came.to_tensors())
    # What is left is the others' blocks with the others' noise: sqrt((n - 1) / (n - t)) of the promised one.
    places = [index for index, name in enumerate(sorted(town.homes)) if name != "furniture"]
    others = np.sum([notes[len(town.homes) + index].exact for index in places], axis=0)
    rest = (at_home.others.slope.ravel() - unscaled(rule, 2, others)[1]) / at_home.others.slope_deviation
    assert np.square(rest).mean() == pytest.approx(1, abs=5 * math.sqrt(2 / len(rest)))
    promised = _multiplier(town, "furniture") * rule.sensitivities(2)[1] / math.sqrt(rule.shares.of(2)[1])
    assert at_home.others.slope_deviation == pytest.approx(1.01 * promised * math.sqrt(2 / 2), rel=1e-6)
    town.evaluates = True
    town.coordinator().run(resume=True)
    assert not file.exists()
    receipt = json.loads((file.parent / "receipt.json").read_text())
    assert receipt["metrics"]["auc"]["federated"] is not None
    assert record["status"] == "completed"


def test_scaling_keeps_every_block_within_its_part(tmp_path: Path) -> None:
    rule = recipe(Town(tmp_path, base=BASE).scenario.contract, "bank")
    for message in (1, 2):
        blocks = [np.zeros(length) for length in rule.lengths(message)]
        for place, sensitivity in enumerate(rule.sensitivities(message)):
            blocks[place][0] = sensitivity
            moved = np.linalg.norm(scaled(rule, message, blocks, 0.3))
            share = math.sqrt(sum(rule.shares.of(message)[: place + 1]))
            assert moved == pytest.approx(0.3 * share, rel=1e-5)
            assert moved <= 0.3 * share
        assert [block[0] for block in unscaled(rule, message, scaled(rule, message, blocks, 1.0))] == pytest.approx(
            rule.sensitivities(message)
        )


@pytest.mark.end_to_end
def test_a_drop_out_in_mode_two_costs_nobody_anything(tmp_path: Path) -> None:
    town = Town(tmp_path, base=BASE, secure=TWO)
    town.hook = lost("train", 2, "other")
    record, notes = _played(town)
    assert record["status"] == "completed"
    assert record["history"][1]["replies"] == sorted(set(town.homes) - {"other"})
    members = len(town.homes)
    living = [note for note, name in zip(notes[members:], sorted(town.homes), strict=True) if name != "other"]
    _check_total(town, living, members - 1, members)
    assert _coming_home(town, "other").own.key == NO_PART
    for name in town.homes:
        assert [entry.state for entry in town.entries(name)] == ["committed"] * 2
        with Ledger.open(town.homes[name].ledger, name) as ledger:
            assert ledger.spent("credit", 1e-5) <= 1.0


@pytest.mark.end_to_end
def test_a_drop_out_in_mode_one_takes_a_spare_attempt(tmp_path: Path) -> None:
    secure = {"colluders": 1, "min_cohort": 3}
    unpaid = Town(tmp_path / "none", base=BASE, secure={**secure, "spare": 0})
    unpaid.hook = lost("train", 2, "other")
    with pytest.raises(RunFailedError):
        unpaid.run()
    town = Town(tmp_path / "one", base=BASE, secure={**secure, "spare": 1})
    town.hook = lost("train", 2, "other")
    record, notes = _played(town)
    assert record["status"] == "completed"
    members = len(town.homes)
    _check_total(town, notes[-(members - 1) :], members - 1, members - 1)
    for name in town.homes:
        with Ledger.open(town.homes[name].ledger, name) as ledger:
            events = [event for entry in ledger.entries("run-1") for event in entry.events]
        assert len(events) == (3 if name == "other" else 5)
        assert epsilon(events, 1e-5) <= 1.0
