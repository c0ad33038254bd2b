"""A contract whose industries have a learner, a trust and rounds of their own."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tomli_w
import torch
from own_homes import own_homes

from consortia.common.errors import InputError, RefusedError, RunFailedError
from consortia.coordinator import readiness, rounds
from consortia.coordinator.checkpoint import load_latest
from consortia.coordinator.sums import released_sums
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.engines.vectorized import participants as vectorized
from consortia.learners.sums import model as sums
from consortia.models.source import of_coordinator
from consortia.participant import receipt
from consortia.planning.plan import make_plans
from consortia.reports.page.facts import gather
from consortia.reports.page.render import as_markdown
from consortia.terms.contract import contract_from_json
from consortia.terms.policy import Proposal, check_contract, parse_policy
from consortia.terms.scenario import Scenario, load_scenario, scenario_folder, scenario_from_json, scenario_from_toml
from privacy.ledger import Ledger

BANKS = ("new-car", "used-car", "furniture")
FACTORIES = {"factory-a": "L", "factory-b": "M"}


def _text(**changes: object) -> str:
    """Return three banks with secure sums in two messages, and two factories with a linear network in three rounds."""
    own: dict[str, Any] = {"rounds": 3, **changes}
    own = {key: value for key, value in own.items() if value is not None}
    credit = {"industry": "bank", "dataset": "credit", "units": 200, "epsilon": 3.0, "delta": 1e-5}
    machines = {"industry": "factory", "dataset": "machines", "units": 300, "epsilon": 6.0, "delta": 1e-5}
    steps = {"model": {"kind": "linear"}, "local_steps": 2, "sampling_rate": 0.5, "clip": 0.5, "learning_rate": 0.5}
    return tomli_w.dumps(
        {
            "schema": 1,
            "name": "two-kinds",
            "title": "Banks by noisy sums, factories by networks",
            "contract": {
                "schema": 1,
                "wire": 1,
                "learner": "sums",
                "trust": "aggregate",
                "secure": {"colluders": 1, "min_cohort": 3},
                "sums": {"prevalence": {"bank": 0.3}},
                "industries": {"bank": {}, "factory": steps},
                "by_industry": {"factory": own},
            },
            "roster": [
                *({"name": name, "site": name, **credit} for name in BANKS),
                *({"name": name, "site": site, **machines} for name, site in FACTORIES.items()),
            ],
        }
    )


def _scenario(**changes: object) -> Scenario:
    return scenario_from_toml(_text(**changes))


def _file(folder: Path, **changes: object) -> Path:
    """Write the scenario and demonstration policies; return its path."""
    policies = folder / "policies" / "two-kinds"
    policies.mkdir(parents=True)
    source = scenario_folder() / "policies" / "secure-banks"
    for name in BANKS:
        shutil.copy(source / f"{name}.toml", policies)
    for name, site in FACTORIES.items():
        policy = {
            "schema": 1,
            "participant": name,
            "demo": True,
            "dataset": {
                "machines": {
                    "industry": "factory",
                    "source": "synthetic:300",
                    "site": site,
                    "unit": "record",
                    "declared_units": 300,
                }
            },
            "budget": {
                "run": {"epsilon": 6.0, "delta": 1e-5},
                "lifetime": {"epsilon": 24.0, "delta": 4e-5},
            },
            "allow": {"releases": ["update"], "exact_metrics": False, "non_private": True, "contracts": "any"},
        }
        (policies / f"{name}.toml").write_text(tomli_w.dumps(policy), encoding="utf-8")
    file = folder / "two-kinds.toml"
    file.write_text(_text(**changes), encoding="utf-8")
    return file


def test_an_industrys_contract_has_its_own_terms_and_the_hash_of_the_whole() -> None:
    whole = _scenario().contract
    bank, factory = whole.of("bank"), whole.of("factory")
    assert (bank.learner, bank.trust, bank.rounds, bank.releases) == ("sums", "aggregate", 2, ("sums",))
    assert (factory.learner, factory.trust, factory.rounds, factory.releases) == ("gradient", "local", 3, ("update",))
    assert bank.sha256() == factory.sha256() == whole.sha256()
    assert bank.of("bank") is bank
    assert list(factory.industries) == ["factory"]
    assert factory.secure is None
    assert bank.secure is not None
    assert bank.secure.noise is not None
    assert contract_from_json(whole.canonical()) == whole
    with pytest.raises(InputError, match="industry: wanted one of bank, factory, got 'hospital'"):
        whole.of("hospital")


def test_every_table_counts_in_the_hash() -> None:
    known = _scenario().contract.sha256()
    assert _scenario(rounds=4).contract.sha256() != known
    assert _scenario(strategy={"name": "fedadam"}).contract.sha256() != known
    assert _scenario(trust="local").contract.sha256() == known  # the default, written down


def test_a_contract_without_tables_is_its_own_part() -> None:
    scenario = load_scenario("banks-network")
    assert scenario.contract.of("bank") is scenario.contract
    assert scenario.parts() == (scenario,)
    assert "by_industry" not in scenario.contract.canonical()


def test_a_scenario_survives_its_json_and_other_rounds() -> None:
    scenario = _scenario()
    assert scenario_from_json(scenario.to_json()) == scenario
    longer = scenario.with_overrides(rounds=5)
    assert [part.contract.rounds for part in longer.parts()] == [2, 5]
    assert longer.rounds == 5


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"trust": "aggregate"}, "local_steps = 1"),
        ({"trust": "coordinator"}, 'trust = "local" or "aggregate"'),
        ({"scopes": {"trunk": "consortium"}}, "nothing shared with the whole consortium"),
        ({"strategy": {"name": "fedbuff"}}, "no asynchronous strategy"),
        ({"stopping": {"metric": "auc"}}, "each industry ends after its rounds"),
        ({"learner": "sums", "rounds": 2}, "no model, init, clip, steps or rates in industries.factory"),
        ({"learner": "statistics", "rounds": 1}, "a learner that trains"),
        ({"rounds": 0}, "rounds"),
        ({"compression": None, "surprise": 1}, "surprise"),
    ],
)
def test_terms_that_do_not_fit_are_refused_by_name(changes: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InputError) as refused:
        make_plans(_scenario(**changes))
    assert wanted in " ".join(refused.value.problems)


def test_tables_are_of_the_contracts_industries_and_leave_one_to_the_contract() -> None:
    text = _text()
    with pytest.raises(InputError, match="not of hospital"):
        scenario_from_toml(text.replace("[contract.by_industry.factory]", "[contract.by_industry.hospital]"))
    contract = _scenario().contract
    data = json.loads(contract.canonical())
    data["by_industry"]["bank"] = {"rounds": 2}
    with pytest.raises(InputError, match="an industry without a by_industry table"):
        contract_from_json(json.dumps(data))


def test_a_plan_says_by_which_learner(tmp_path: Path) -> None:
    plans = {plan.name: plan for plan in make_plans(_scenario())}
    assert list(plans) == [*BANKS, *FACTORIES]
    assert plans["new-car"].learner == "sums"
    assert plans["factory-a"].learner == "gradient"
    assert plans["factory-a"].steps == 6
    assert plans["new-car"].releases == ("sums",)
    assert plans["new-car"].epsilon == pytest.approx(3.0, abs=0.01)
    assert plans["factory-a"].epsilon == pytest.approx(6.0, abs=0.02)
    with pytest.raises(InputError, match=r"contract\.by_industry"):
        vectorized.check(_scenario())


def test_a_participant_checks_the_terms_of_its_own_industry(tmp_path: Path) -> None:
    file = _file(tmp_path)
    contract = _scenario().contract
    for name, industry, dataset, releases in (
        ("new-car", "bank", "credit", ["sums"]),
        ("factory-a", "factory", "machines", ["update"]),
    ):
        data = tomllib.loads((file.parent / "policies" / file.stem / f"{name}.toml").read_text(encoding="utf-8"))
        proposal = Proposal(dataset, 3.0, 1e-5)

        def checked(kinds: list[str], data: dict[str, Any] = data, *where: Any) -> None:
            data["allow"] |= {"releases": kinds, "contracts": [f"sha256:{contract.sha256()}"]}
            check_contract(parse_policy(tomli_w.dumps(data), "policy"), contract, *where)

        checked(releases, data, industry, proposal)
        with pytest.raises(RefusedError, match=r"allow\.releases"):
            checked(["sums", "update"][releases == ["sums"]].split(), data, industry, proposal)
        with pytest.raises(RefusedError):  # a coordinator cannot place it in another industry
            checked(["sums", "update"], data, {"bank": "factory", "factory": "bank"}[industry], proposal)


def _played(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[dict[str, Any], Path]:
    """Run it without receipts, which have tests of their own; return result and folder."""
    monkeypatch.setattr(receipt, "write", lambda *_: None)
    chosen = Options(**options)
    outcome = execute(prepare(chosen), chosen)
    return outcome.result, outcome.job.folder


def _events(folder: Path, name: str) -> list[tuple[int, str]]:
    with Ledger.open(folder / "participants" / name / "ledger.db", name) as ledger:
        return [(entry.round, type(event).__name__) for entry in ledger.entries() for event in entry.events]


def test_each_industry_ends_after_its_own_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, folder = _played(monkeypatch, scenario=str(_file(tmp_path)), out=tmp_path / "runs")
    assert (result["status"], result["rounds"]) == ("completed", 3)
    everybody = sorted([*BANKS, *FACTORIES])
    assert [line["replies"] for line in result["history"]] == [everybody, everybody, sorted(FACTORIES)]
    assert _events(folder, "new-car") == [(1, "GaussianRelease"), (2, "GaussianRelease"), (2, "GaussianRelease")]
    assert _events(folder, "factory-a") == [(number, "PoissonGaussian") for number in (1, 2, 3)]
    bank, factory = (
        safetensors.torch.load((folder / "model" / f"{n}.safetensors").read_bytes()) for n in ("bank", "factory")
    )
    assert sums.WEIGHTS in bank
    assert "head.weight" in factory
    kept = load_latest(folder)
    assert kept is not None
    assert released_sums(_scenario().of("bank"), "bank", kept.memory["bank"]) is not None  # factories went on after it
    for name, members in (("bank", BANKS), ("factory", FACTORIES)):
        found = of_coordinator(str(folder), name)
        assert found.about.contract.learner == {"bank": "sums", "factory": "gradient"}[name]
        assert sorted(found.guarantee["participants"]) == sorted(members)


@pytest.mark.end_to_end
def test_an_interrupted_run_goes_on_in_every_industry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = rounds.save

    def killed(folder: Path, state: Any, **options: Any) -> None:
        save(folder, state, **options)
        if state.round == 2:
            raise RunFailedError("killed")

    monkeypatch.setattr(rounds, "save", killed)
    result, folder = _played(monkeypatch, scenario=str(_file(tmp_path)), out=tmp_path / "runs")
    assert result["status"] == "failed"
    monkeypatch.setattr(rounds, "save", save)
    result, _ = _played(monkeypatch, scenario="", resume=folder)
    assert (result["status"], result["rounds"]) == ("completed", 3)
    assert len(_events(folder, "new-car")) == len(_events(folder, "factory-a")) == 3


def test_a_run_needs_enough_participants_of_every_industry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = _scenario()
    groups: dict[str, Any] = {"bank": {}, "factory": {}}
    assert readiness.lacking(scenario, {*BANKS, *FACTORIES}, groups) == []
    assert "bank: wanted at least 3" in readiness.lacking(scenario, {*BANKS[1:], *FACTORIES}, groups)[0]
    assert "wanted 1 of 2 participants" in readiness.lacking(scenario, set(BANKS), groups)[0]
    file = _file(tmp_path)
    for name in FACTORIES:
        policy = file.parent / "policies" / file.stem / f"{name}.toml"
        policy.write_text(policy.read_text(encoding="utf-8").replace('"update"', '"sums"'), encoding="utf-8")
    with pytest.raises(InputError, match="Nothing was trained"):
        _played(monkeypatch, scenario=str(file), out=tmp_path / "runs")


@pytest.mark.end_to_end
def test_receipts_say_what_each_industry_learned(tmp_path: Path) -> None:
    chosen = Options(scenario=str(_file(tmp_path)), out=tmp_path / "runs", dump=tmp_path / "dump")
    outcome = execute(prepare(chosen), chosen)
    assert outcome.missed == []
    for name, participant in outcome.result["participants"].items():
        assert participant["metrics"]["auc"]["joined"] is not None
        assert participant["epsilon"]["run"] <= (3.0 if name in BANKS else 6.0) + 1e-6
    home = outcome.job.folder / "participants"
    models = {
        name: {f.stem for f in (home / name / "runs" / outcome.job.run_id / "models").iterdir()} for name in BANKS
    }
    assert all("released" in kept for kept in models.values())
    page = as_markdown(gather(outcome.job.folder))
    assert "bank: learner" in page
    assert "factory: learner" in page


@pytest.mark.long
@pytest.mark.end_to_end
def test_real_processes_give_the_embedded_engines_factory_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, homes = str(_file(tmp_path)), tmp_path / "homes"
    names = own_homes(file, homes, monkeypatch, split_seed=5)
    assert set(names) == {*BANKS, *FACTORIES}
    models = []
    for engine in ("embedded", "flower"):
        given = {"split_seed": 5} if engine == "embedded" else {}
        epsilon = tuple(f"{name}=inf" for name in FACTORIES)
        chosen = Options(scenario=file, out=tmp_path / engine, engine=engine, epsilon=epsilon, **given)
        outcome = execute(prepare(chosen), chosen)
        assert outcome.result["status"] == "completed"
        models.append(safetensors.torch.load((outcome.job.folder / "model" / "factory.safetensors").read_bytes()))
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())
    for name in names:
        with Ledger.open(homes / name / "ledger.db", name) as ledger:
            assert len(ledger.entries()) == (2 if name in BANKS else 3)
