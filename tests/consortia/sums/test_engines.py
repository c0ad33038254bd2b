"""The learner `sums` on its engines: one model embedded and by real processes, and runs that go on after a kill."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_homes import own_homes
from whole_runs import dies, model, run

from consortia.common.errors import InputError
from consortia.coordinator.checkpoint import load_latest
from consortia.engines.options import Options
from consortia.engines.runner import prepare
from consortia.engines.vectorized import blocks, participants
from consortia.engines.vectorized.coordinator import CrowdCoordinator
from consortia.learners.blocks.release import deviations
from consortia.messages.blocks import contribution
from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant import own_sums
from consortia.participant.handle import handle
from consortia.terms.recipe import recipe
from consortia.terms.scenario import find_scenario
from consortia.terms.scopes import initial_groups
from privacy.errors import BudgetExhaustedError
from privacy.ledger import Ledger


def _open(folder: Path, participants: int = 3) -> str:
    """Write banks without budgets, whose sums are the same wherever they are made; return its path."""
    source = find_scenario("banks")
    head, *roster = source.read_text(encoding="utf-8").replace("epsilon = 3.0", "epsilon = inf").split("[[roster]]")
    file = folder / "open-sums.toml"
    file.write_text("[[roster]]".join([head.replace("banks", "open-sums"), *roster[:participants]]), encoding="utf-8")
    policies = folder / "policies" / file.stem
    shutil.copytree(source.parent / "policies" / source.stem, policies)
    for policy in policies.glob("*.toml"):
        text = policy.read_text(encoding="utf-8").replace("non_private = false", "non_private = true")
        policy.write_text(text, encoding="utf-8")
    return str(file)


@pytest.mark.end_to_end
def test_real_processes_give_the_embedded_engines_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, homes = _open(tmp_path), tmp_path / "homes"
    names = own_homes(scenario, homes, monkeypatch, split_seed=5)
    embedded = run(scenario=scenario, split_seed=5, out=tmp_path / "embedded")
    flower = run(scenario=scenario, engine="flower", out=tmp_path / "flower")
    assert flower.result["status"] == "completed"
    left, right = model(embedded.job.folder), model(flower.job.folder)
    assert left.keys() == right.keys() == {"encoder.centre", "encoder.radius", "head.weights"}
    assert all(torch.equal(left[name], right[name]) for name in left)
    for name in names:  # at home, too: the others' sums, finished on the same rows
        receipts = [
            json.loads((home / "runs" / job.run_id / "receipt.json").read_text(encoding="utf-8"))
            for home, job in (
                (homes / name, flower.job),
                (embedded.job.homes[name].folder, embedded.job),
            )
        ]
        assert receipts[0]["metrics"] == receipts[1]["metrics"]
        assert not list((homes / name).rglob("own-sums*"))


@pytest.mark.long
@pytest.mark.end_to_end
def test_a_secure_sum_between_real_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_scenario("secure-banks")
    terms = '[contract.secure]\nmode = "two"\ndrops = 1'
    file = tmp_path / "secure-banks.toml"
    text = source.read_text(encoding="utf-8").replace("[contract.secure]", terms)
    file.write_text(text, encoding="utf-8")
    shutil.copytree(source.parent / "policies" / source.stem, tmp_path / "policies" / file.stem)
    homes = tmp_path / "homes"
    names = own_homes(str(file), homes, monkeypatch)
    result = run(scenario=str(file), engine="flower", out=tmp_path / "runs").result
    assert result["status"] == "completed"
    assert [line["replies"] for line in result["history"]] == [sorted(names)] * 2
    for name in names:
        with Ledger.open(homes / name / "ledger.db", name) as ledger:
            assert [entry.state for entry in ledger.entries()] == ["committed"] * 2
            assert 0.999 <= ledger.spent("credit", 1e-5) <= 1.0
        assert not list((homes / name).rglob("own-sums*"))


@pytest.mark.parametrize("after", [1, 2])
def test_a_coordinator_that_dies_goes_on(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After message 1 or 2 was kept: nobody is charged again, and the model is that of the undisturbed run."""
    with monkeypatch.context() as patch:
        dies(patch, after)
        outcome = run(scenario=_open(tmp_path, participants=2), split_seed=1, out=tmp_path / "runs")
    assert outcome.result["status"] == "failed"
    job = outcome.job
    monkeypatch.setattr("consortia.participant.receipt.write", lambda *args: None)
    assert run(scenario="", resume=job.folder).result["status"] == "completed"
    state = load_latest(job.folder)
    assert state is not None
    assert state.round == 2
    for name, home in job.homes.items():
        with Ledger.open(home.ledger, name) as ledger:
            assert [(entry.round, entry.state) for entry in ledger.entries()] == [(1, "committed"), (2, "committed")]


@pytest.mark.end_to_end
def test_the_vectorised_engine_gives_the_embedded_engines_model_to_the_bit(tmp_path: Path) -> None:
    scenario = _open(tmp_path)
    embedded, vectorized = (
        run(scenario=scenario, split_seed=5, engine=engine, out=tmp_path / engine)
        for engine in ("embedded", "vectorized")
    )
    left, right = model(embedded.job.folder), model(vectorized.job.folder)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    for name, participant in vectorized.result["participants"].items():  # at home, too
        found = [one["metrics"]["auc"] for one in (participant, embedded.result["participants"][name])]
        assert {kind: found[0][kind] for kind in found[0] if kind not in ("personal", "kept")} == {
            kind: found[1][kind] for kind in found[0] if kind not in ("personal", "kept")
        }


def test_a_vectorised_message_is_charged_block_by_block_before_a_row_is_summed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(Options(scenario="banks", engine="vectorized", out=tmp_path))
    contract, someone = job.scenario.contract, job.scenario.roster[1]
    model = initial_groups(contract, ["bank"])["bank"]
    rule = recipe(contract, "bank")
    places = [participants.open_place(job, someone) for _ in range(2)]
    first, second = (blocks.released(contract, place, 1, model) for place in places)
    assert first.keys() == set(rule.names(1))
    assert not any(torch.equal(first[name], second[name]) for name in first)  # a key of its own
    exact = rule.exact(1, own_sums.rows_of(places[0].parts.train), model)
    noise = deviations(rule, 1, places[0].plan.noise_multiplier)
    for block, deviation, one in zip(exact, noise, first.values(), strict=True):
        assert np.std(one.numpy() - block) == pytest.approx(deviation, rel=0.5)
    terms, plan = contract.noisy_sums, places[0].plan
    assert terms is not None
    with monkeypatch.context() as patch:
        patch.setattr(type(rule), "exact", lambda *_: pytest.fail("rows were summed"))
        with pytest.raises(pytest.fail.Exception):
            blocks.released(contract, places[0], 2, model)
        entries = places[0].account.entries()
        assert [entry.events for entry in entries] == [
            terms.shares.events(message, plan.noise_multiplier, plan.unit) for message in (1, 2)
        ]
        with pytest.raises(BudgetExhaustedError):  # no spare attempts: nothing is summed
            blocks.released(contract, places[0], 2, model)
    assert not places[0].sent
    blocks.released(contract, places[1], 2, model)
    assert [len(part.blocks) for part in places[1].sent] == [2]


def test_a_vectorised_participant_whose_sums_break_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(Options(scenario="banks", engine="vectorized", out=tmp_path))
    crowd = CrowdCoordinator(job)
    model = initial_groups(crowd.contract, ["bank"])["bank"]
    broken, fine = job.scenario.roster[:2]
    for someone in (broken, fine):
        crowd.places[someone.name] = participants.open_place(job, someone)
    rows = crowd.places[broken.name].parts.train

    def rows_of(table: Any) -> Any:
        if table is rows:
            raise ValueError("4711 is a value of a row")
        return own_sums.rows_of(table)

    monkeypatch.setattr(blocks, "rows_of", rows_of)
    found = crowd._ask("train", 1, {broken.name: model, fine.name: model}, quorum=1)
    assert found.keys() == {fine.name}
    assert [failure["code"] for failure in crowd.participants[broken.name].failures] == ["PARTICIPANT_ERROR"]
    assert len(crowd.places[broken.name].account.entries()) == 1  # it was charged before


def test_the_vectorised_engine_refuses_statistics_by_name(tmp_path: Path) -> None:
    file = tmp_path / "counts.toml"
    text = find_scenario("banks").read_text(encoding="utf-8").replace('learner = "sums"', 'learner = "statistics"')
    file.write_text(text.replace("[contract.sums]\nprevalence = { bank = 0.3 }\n", ""), encoding="utf-8")
    with pytest.raises(InputError, match='wanted one with a model, got "statistics"'):
        prepare(Options(scenario=str(file), engine="vectorized", out=tmp_path))


def test_a_message_that_broke_after_the_charge_is_spent(
    make_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site("other", "banks")

    def broken(*_: object) -> None:
        raise RuntimeError("something broke")

    with monkeypatch.context() as patch:
        patch.setattr("consortia.participant.sums.exact_blocks", broken)
        assert site.ask(1).header["status"] == "FAILED"
    assert (site.ask(1).header["status"], site.ask(1).header["code"]) == ("RECEIVE_ONLY", "BUDGET_EXHAUSTED")
    with site.ledger() as ledger:
        assert [entry.state for entry in ledger.entries()] == ["reserved"]
    assert site.ask(2).header["status"] == "OK"  # its own budget was set aside


def test_a_message_that_cannot_be_summed_costs_nothing(make_site: Callable[..., Any]) -> None:
    site = make_site("other", "banks")
    envelope = decode(site.message(2))
    for name, value in (("encoder.radius", 0.0), ("encoder.radius", math.nan), ("encoder.centre", 1e9)):
        tensors = {**envelope.tensors, name: torch.full_like(envelope.tensors[name], value)}
        reply = decode(handle(encode(Envelope(envelope.header, tensors)), site.home))
        assert reply.header["code"] == "BAD_MESSAGE"
    beside = {**envelope.tensors, "control/sums/own": torch.zeros(32, dtype=torch.uint8)}
    assert decode(handle(encode(Envelope(envelope.header, beside)), site.home)).header["code"] == "BAD_MESSAGE"
    with site.ledger() as ledger:
        assert not ledger.entries()


def test_asked_again_the_bytes_are_the_same_and_free(make_site: Callable[..., Any]) -> None:
    site = make_site("other", "banks")
    first, again = (handle(site.message(2), site.home) for _ in range(2))
    assert first == again
    with site.ledger() as ledger:
        assert len(ledger.entries()) == 1
    tensors = decode(first).tensors
    assert sorted(tensors) == ["sums.gram", "sums.slope"]
    part = own_sums.sent(site.home, "run-1")
    assert part is not None
    assert part.key == contribution(tensors)
    assert (tensors["sums.gram"].numpy() == part.blocks[0]).all()
