"""The learner `additive` in whole runs: terms, ledger, secure sums with a drop-out, resume, engines."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_homes import own_homes
from secure_town import Town, lost
from whole_runs import dies, model, run

from consortia.common.errors import InputError
from consortia.coordinator import blocks
from consortia.learners.blocks.noise import mu_of
from consortia.participant.handle import handle
from consortia.terms.contract import contract_from_json
from consortia.terms.recipe import additive_recipe
from consortia.terms.scenario import find_scenario, scenario_from_toml
from privacy.ledger import Ledger
from privacy.observation import observing

HEAD = 'schema = 1\nname = "few"\ntitle = "Few"\n[contract]\nschema = 1\nwire = 1\nlearner = "additive"\n'
PARTICIPANT = '[[roster]]\nname = "a"\nindustry = "bank"\ndataset = "d"\nsite = "other"\nunits = 200\nepsilon = 1.0\n'


def _short(folder: Path, rounds: int = 2, epsilon: str = "inf") -> str:
    """Write banks with the learner `additive`, and few rounds; return its path."""
    source = find_scenario("banks")
    text = source.read_text(encoding="utf-8").replace("epsilon = 3.0", f"epsilon = {epsilon}")
    text = text.replace('learner = "sums"', 'learner = "additive"').replace("banks", "few-additive")
    text = text.replace("[contract.sums]", f"[contract.additive]\nboosting_rounds = {rounds}")
    file = folder / "few-additive.toml"
    file.write_text(text, encoding="utf-8")
    policies = folder / "policies" / file.stem
    shutil.copytree(source.parent / "policies" / source.stem, policies)
    for policy in policies.glob("*.toml"):
        terms = policy.read_text(encoding="utf-8").replace("non_private = false", "non_private = true")
        policy.write_text(terms.replace('releases = ["sums"]', 'releases = ["additive"]'))
    return str(file)


def test_a_written_contract_needs_the_learner_and_its_industries_only() -> None:
    contract = scenario_from_toml(HEAD + "[contract.industries.bank]\n" + PARTICIPANT).contract
    assert (contract.rounds, contract.releases) == (21, ("additive",))
    assert contract.additive is not None
    assert contract_from_json(contract.canonical()) == contract
    shorter = HEAD + "[contract.additive]\nboosting_rounds = 4\n[contract.industries.bank]\n" + PARTICIPANT
    assert scenario_from_toml(shorter).contract.rounds == 5


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ("[contract.sums]\n", "learner"),
        ('[contract.additive]\nmonotone = { bank = { age = "sideways" } }\n', "monotone"),
        ("[contract.additive]\nprevalence = { factory = 0.1 }\n", "factory"),
        ("[contract.additive]\ngradient_clip = 0.0\n", "gradient_clip"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(terms: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        scenario_from_toml(HEAD + terms + "[contract.industries.bank]\n" + PARTICIPANT)


def test_a_column_that_nobody_has_is_refused_by_name() -> None:
    terms = '[contract.additive]\nmonotone = { bank = { height = "up" } }\n'
    contract = scenario_from_toml(HEAD + terms + "[contract.industries.bank]\n" + PARTICIPANT).contract
    with pytest.raises(InputError, match="height"):
        additive_recipe(contract, "bank")


def test_each_message_has_an_event_and_together_they_are_the_budget(make_site: Callable[..., Any]) -> None:
    site = make_site("high", "factories")
    for number in (1, 2, 3):
        assert site.ask(number).header["status"] == "OK"
    again = handle(site.message(3), site.home)
    assert again == handle(site.message(3), site.home)
    with site.ledger() as ledger:
        entries = ledger.entries()
    assert [(entry.round, entry.state) for entry in entries] == [(n, "committed") for n in (1, 2, 3)]
    noise = [event.noise_multiplier for entry in entries for event in entry.events]
    # The Gaussian mechanism's own formula for 21 such events, without the ledger's accountant.
    assert math.sqrt(21) / noise[0] == pytest.approx(mu_of(3.0, 1e-5), rel=2e-3)
    assert len(set(noise)) == 1


def test_a_message_that_broke_after_the_charge_is_spent(
    make_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site("high", "factories")

    def broken(*_: object) -> None:
        raise RuntimeError("something broke")

    with monkeypatch.context() as patch:
        patch.setattr("consortia.participant.sums.exact_blocks", broken)
        assert site.ask(1).header["status"] == "FAILED"
    with site.ledger() as ledger:
        assert [entry.state for entry in ledger.entries()] == ["reserved"]


@pytest.mark.end_to_end
@pytest.mark.parametrize("after", [1, 2])
def test_a_coordinator_that_dies_goes_on(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is charged again, and the model is that of the undisturbed run."""
    monkeypatch.setattr("consortia.participant.receipt.write", lambda *args: None)
    scenario = _short(tmp_path)
    whole = run(scenario=scenario, split_seed=1, out=tmp_path / "whole").job
    with monkeypatch.context() as patch:
        dies(patch, after)
        outcome = run(scenario=scenario, split_seed=1, out=tmp_path / "runs")
    assert outcome.result["status"] == "failed"
    job = outcome.job
    assert run(scenario="", resume=job.folder).result["status"] == "completed"
    for name, tensor in model(whole.folder).items():
        assert torch.equal(tensor, model(job.folder)[name])
    for name, home in job.homes.items():
        with Ledger.open(home.ledger, name) as ledger:
            assert [(entry.round, entry.state) for entry in ledger.entries()] == [(n, "committed") for n in (1, 2, 3)]


@pytest.mark.end_to_end
def test_the_vectorised_engine_gives_the_embedded_engines_model_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consortia.participant.receipt.write", lambda *_: None)  # the models are compared
    scenario = _short(tmp_path)
    embedded, vectorized = (
        model(run(scenario=scenario, split_seed=5, engine=engine, out=tmp_path / engine).job.folder)
        for engine in ("embedded", "vectorized")
    )
    assert embedded.keys() == vectorized.keys()
    assert all(torch.equal(embedded[name], vectorized[name]) for name in embedded)


def _town(folder: Path, **secure: Any) -> Town:
    terms = {"colluders": 1, "min_cohort": 3, "spare": 0, **secure}
    own: dict[str, Any] = {"learner": "additive", "sums": None, "additive": {"boosting_rounds": 2}}
    town = Town(folder, participants=4, rounds=3, secure=terms, base="secure-banks", releases=["additive"], **own)
    for home in town.homes.values():
        policy = home.policy.read_text(encoding="utf-8")
        home.policy.write_text(policy.replace('"sums"', '"additive"'), encoding="utf-8")
    return town


@pytest.mark.parametrize("mode", [{"mode": "one"}, {"mode": "two", "drops": 1}])
def test_what_opens_is_the_members_sum_and_noise_of_the_planned_size(
    mode: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town, opened = _town(tmp_path, **mode), []

    def after(rule: Any, current: Any, message: int, one: Any, code: Any, units: Any) -> Any:
        opened.append((one, code))
        return genuine(rule, current, message, one, code, units)

    genuine = blocks.after_sum
    monkeypatch.setattr(blocks, "after_sum", after)
    with observing() as notes:
        assert town.run()["status"] == "completed"
    shares = [note.exact for note in notes if note.where == "share"]
    assert (len(opened), len(shares)) == (3, 12)
    rest = []
    for place, (one, code) in enumerate(opened):
        deviation = code.share_std(one.asked) * code.step * math.sqrt(len(one.names))
        rest.append((one.total - np.sum(shares[4 * place : 4 * place + 4], axis=0)) / deviation)
    assert 0.9 < float(np.concatenate(rest).std()) < 1.1
    for name in town.homes:
        assert [entry.state for entry in town.entries(name)] == ["committed"] * 3
        assert not list(town.homes[name].folder.rglob("own-sums*"))


def test_a_lost_reply_costs_one_message_of_a_spare_attempt(tmp_path: Path) -> None:
    town = _town(tmp_path, spare=1)
    participants = [participant.name for participant in town.scenario.roster]
    town.hook = lost("train", 2, participants[0])
    assert town.run()["status"] == "completed"
    for name in participants[1:]:
        noise = [event.noise_multiplier for entry in town.entries(name) for event in entry.events]
        assert len(noise) == 4
        assert math.sqrt(4) / noise[0] == pytest.approx(mu_of(1.0, 1e-5), rel=2e-3)


@pytest.mark.end_to_end
def test_real_processes_give_the_embedded_engines_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, homes = _short(tmp_path), tmp_path / "homes"
    own_homes(scenario, homes, monkeypatch, split_seed=5)
    embedded = run(scenario=scenario, split_seed=5, out=tmp_path / "embedded")
    flower = run(scenario=scenario, engine="flower", out=tmp_path / "flower")
    assert flower.result["status"] == "completed"
    left, right = model(embedded.job.folder), model(flower.job.folder)
    assert left.keys() == right.keys() == {"head.shapes", "head.start", "head.part", "head.noise"}
    assert all(torch.equal(left[name], right[name]) for name in left)
