"""`learner = "auto"`: what the rule chooses, from which numbers, and that participants accept an explicit contract."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from command_line import APP
from typer.testing import CliRunner

from consortia.common.errors import InputError
from consortia.deploy.kit import write_kit
from consortia.engines.demonstration import demo_policy_file
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.learners.blocks.noise import mu_of
from consortia.learners.sums.forecast import effective_columns
from consortia.terms import few_steps, rule, settle
from consortia.terms.recipe import additive_recipe, recipe
from consortia.terms.scenario import Scenario, find_scenario, load_scenario, scenario_from_json, scenario_from_toml

NETWORK = {"local_steps": 2, "sampling_rate": 1.0, "clip": 1.0, "learning_rate": 0.5}


def _data(name: str = "secure-banks", units: int | None = None, **contract: Any) -> dict[str, Any]:
    data = tomllib.loads(find_scenario(name).read_text(encoding="utf-8"))
    data["contract"] |= {"learner": "auto", **contract}
    for line in data["roster"] if units else ():
        line["units"] = units
    return data


def _auto(name: str = "secure-banks", units: int | None = None, **contract: Any) -> Scenario:
    return scenario_from_toml(tomli_w.dumps(_data(name, units, **contract)))


def _choice(scenario: Scenario) -> Any:
    assert scenario.chosen is not None
    (choice,) = scenario.chosen.industries.values()
    return choice


@pytest.mark.parametrize("name", ["secure-banks", "banks"])
def test_what_participants_accept_is_the_explicit_contract(name: str) -> None:
    scenario = _auto(name)
    assert _choice(scenario).learner == "sums"
    assert scenario.contract == load_scenario(name).contract
    assert scenario.contract.sha256() == load_scenario(name).contract.sha256()
    assert "auto" not in scenario.contract.canonical()
    assert "chosen" not in scenario.contract.canonical()


def test_many_rows_get_histograms() -> None:
    scenario = _auto("secure-factories", units=40_000)
    assert _choice(scenario).learner == "additive"
    wanted = tomllib.loads(find_scenario("secure-factories").read_text(encoding="utf-8"))
    for line in wanted["roster"]:
        line["units"] = 40_000
    assert scenario.contract.sha256() == scenario_from_toml(tomli_w.dumps(wanted)).contract.sha256()


def test_few_rows_get_sums_at_any_budget() -> None:
    scenario = _auto("banks", trust="local").with_overrides(epsilon=["inf"])
    assert (_choice(scenario).learner, _choice(scenario).units) == ("sums", 600)
    assert _choice(scenario).rows_left is None


@pytest.mark.parametrize(("epsilon", "learner"), [("0.2", "sums"), ("8", "additive"), ("inf", "additive")])
def test_another_budget_chooses_anew(epsilon: str, learner: str) -> None:
    scenario = _auto("factories", units=3000, seed=7)
    again = scenario.with_overrides(epsilon=[epsilon], seed=9)
    assert _choice(again).learner == learner == again.contract.learner
    assert again.contract.seed == 9
    assert scenario.with_overrides(epsilon=[epsilon]).contract.seed == 7
    assert scenario_from_json(again.to_json()) == again


def test_few_rows_under_much_noise_get_few_steps_with_the_recipe_and_nothing_of_the_contracts_network() -> None:
    network = {"model": {"kind": "mlp", "hidden": [4]}, "local_steps": 30, "sampling_rate": 0.2, "clip": 3.0}
    more = {"rounds": 50, "strategy": {"name": "fedadam"}, "releases": ["sums"], "secure": {"colluders": 1}}
    scenario = _auto(**more, industries={"bank": {**network, "learning_rate": 9.0}}).with_overrides(epsilon=["0.5"])
    assert _choice(scenario).few_steps
    assert "the worth of 69, fewer than a quarter" in _choice(scenario).why
    written = _data(**{key: value for key, value in more.items() if key == "secure"})
    del written["contract"]["learner"], written["contract"]["sums"]
    written["contract"]["industries"] = {"bank": few_steps.industry()}
    written["contract"] = few_steps.with_training(written["contract"])
    by_hand = scenario_from_toml(tomli_w.dumps(written)).with_overrides(epsilon=["0.5"])
    assert scenario.contract.sha256() == by_hand.contract.sha256()
    assert (scenario.contract.learner, scenario.contract.releases) == ("gradient", ("update",))
    again = scenario_from_json(scenario.to_json())
    assert again == scenario
    assert _choice(again.with_overrides(epsilon=["3"])).learner == "sums"


def test_a_target_of_another_kind_gets_no_few_steps() -> None:
    """They were measured for two classes."""
    assert _choice(_auto("linear", trust="local").with_overrides(epsilon=["0.1"])).learner == "sums"


def test_what_noise_leaves_to_sums_by_hand() -> None:
    scenario = load_scenario("banks").with_overrides(epsilon=["1"])
    left = rule.rows_left_by_sums(scenario.contract, "bank", scenario.roster)
    # Five alike: v = 5 (.7 / mu)^2 / .63 of the products with the target, against c / d of a row.
    noise, d = 5 * (0.7 / mu_of(1.0, 1e-5)) ** 2 / 0.63, effective_columns(recipe(scenario.contract, "bank").columns)
    assert left == pytest.approx(600 / (1 + noise * d / (0.21 * 600)), rel=0.01)


def test_all_steps_together_cost_what_was_agreed() -> None:
    """Ten steps and a spare one on all rows are Gaussian mechanisms, so squared ratios add up: by hand, not by us."""
    scenario = _auto().with_overrides(epsilon=["0.5"])
    participant = scenario.roster[0]
    z = settle.sigma_of(scenario.contract, participant)
    assert z is not None
    assert z >= math.sqrt(few_steps.ROUNDS + 1) / mu_of(0.5, participant.delta)
    assert z == pytest.approx(math.sqrt(few_steps.ROUNDS + 1) / mu_of(0.5, participant.delta), rel=1e-3)


def test_what_noise_leaves_by_hand() -> None:
    scenario = _auto("factories", units=3000).with_overrides(epsilon=["8"])
    participants, contract = scenario.roster, scenario.contract
    left = rule.rows_left(contract, "factory", participants)
    # Three alike: v = 3 z^2 21 d / 4 of a message, twenty of them averaged, against c d / cells of a row.
    mechanism = 3 * (1 / mu_of(8.0, 1e-5)) ** 2 * 21 / 4 / 20
    cells, variance, rows = additive_recipe(contract, "factory").cells.size, 0.03 * 0.97, 3 * 1800
    assert left == pytest.approx(rows / (1 + mechanism * cells / (variance * rows)), rel=0.01)
    assert left < rule.rows_left(contract, "factory", [p.model_copy(update={"units": 9000}) for p in participants])
    assert left > rule.rows_left(contract, "factory", [p.model_copy(update={"epsilon": 4.0}) for p in participants])
    unprotected = [p.model_copy(update={"epsilon": float("inf")}) for p in participants]
    assert rule.rows_left(contract, "factory", unprotected) == rows


def test_shared_noise_leaves_more_than_noise_of_each() -> None:
    terms = {"trust": "aggregate", "secure": {"colluders": 1, "min_cohort": 3}}
    local, shared = (_auto("factories", units=3000, **more) for more in ({}, terms))
    assert _choice(shared).rows_left > _choice(local).rows_left
    assert _choice(shared).rows_left > rule.rows_left(shared.contract, "factory", shared.roster[:2])


def test_industries_may_get_different_learners() -> None:
    data = _data("cross-industry")
    del data["contract"]["by_industry"]
    for line in data["roster"]:
        line["units"] = 9000 if line["industry"] == "factory" else line["units"]
    scenario = scenario_from_toml(tomli_w.dumps(data))
    found = {part.roster[0].industry: (part.contract.learner, part.contract.trust) for part in scenario.parts()}
    aggregate = {"bank": ("sums", "aggregate"), "hospital": ("sums", "aggregate")}
    assert found == {**aggregate, "factory": ("additive", "aggregate")}
    assert list(scenario.contract.by_industry) == ["factory"]


def test_a_table_of_one_industry_may_ask_the_rule_alone() -> None:
    data = tomllib.loads(find_scenario("cross-industry").read_text(encoding="utf-8"))
    data["contract"]["by_industry"]["factory"] = {"learner": "auto", "rounds": 20}
    scenario = scenario_from_toml(tomli_w.dumps(data))
    assert scenario.chosen is not None
    assert list(scenario.chosen.industries) == ["factory"]
    assert scenario.of("factory").contract.learner == "additive"
    assert scenario.of("bank").contract.sums == load_scenario("cross-industry").of("bank").contract.sums


def test_terms_of_the_network_that_was_not_chosen_are_left_out() -> None:
    more = {"rounds": 20, "strategy": {"name": "fedadam"}, "scopes": {}, "releases": ["update"], "additive": {}}
    scenario = _auto(**more, industries={"bank": {"model": {"kind": "mlp"}, **NETWORK}})
    assert scenario.contract.sha256() == load_scenario("secure-banks").contract.sha256()


def test_images_anomalies_and_a_trusted_coordinator_need_a_network() -> None:
    assert _choice(_auto("intrusions-unlabelled")).learner == "gradient"
    assert _choice(_auto("digits")).learner == "gradient"
    assert _auto("digits").contract.sha256() == load_scenario("digits").contract.sha256()
    home = _auto("smart-home")
    assert _choice(home).learner == "gradient"
    assert home.contract.sha256() == load_scenario("smart-home").contract.sha256()
    with pytest.raises(InputError, match=r"industries\.digits: wanted local_steps, .*, got none: .*images"):
        _auto("digits", industries={"digits": {}})


@pytest.mark.parametrize(
    ("contract", "wanted"),
    [
        ({"industries": {"bank": 3}}, "industries.bank"),
        ({"industries": {"nobody": {}}}, "industries.nobody"),
        ({"by_industry": {"bank": 3}}, "by_industry"),
        ({"sums": 3}, "contract.sums"),
        ({"split": {"train": 2.0}}, "contract.split"),
        ({"mode": "vertical"}, "contract.vertical"),
    ],
)
def test_a_wrong_contract_is_refused_by_name(contract: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        _auto(**contract)


def test_check_says_what_was_chosen_and_why(tmp_path: Path) -> None:
    file = tmp_path / "auto.toml"
    file.write_text(tomli_w.dumps(_data("banks")), encoding="utf-8")
    shown = CliRunner().invoke(APP, ["check", str(file)]).stdout.replace("\n", " ")
    assert 'bank: learner "sums", chosen by the rule: 600 training units in all, fewer than the 700' in shown
    told = json.loads(CliRunner().invoke(APP, ["check", str(file), "--json"]).stdout)
    assert told["chosen"]["bank"]["learner"] == "sums"
    assert told["contract_sha256"] == load_scenario("banks").contract.sha256()
    assert "chosen" not in json.loads(CliRunner().invoke(APP, ["check", "linear", "--json"]).stdout)


def test_a_kit_says_nothing_of_others(tmp_path: Path) -> None:
    scenario = _auto("banks")
    write_kit(tmp_path / "kit", scenario, "other", "fed.example.org:9092", b"", has_key=False)
    text = (tmp_path / "kit" / "scenario.toml").read_text(encoding="utf-8")
    assert "chosen" not in text
    assert "600" not in text
    assert scenario_from_toml(text).contract.sha256() == scenario.contract.sha256()


@pytest.mark.end_to_end
def test_the_record_says_what_was_chosen(tmp_path: Path) -> None:
    file = tmp_path / "banks.toml"
    file.write_text(tomli_w.dumps(_data("banks")), encoding="utf-8")
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "banks").symlink_to(demo_policy_file("banks", "other").resolve().parent)
    options = Options(scenario=str(file), epsilon=("inf",), out=tmp_path / "runs")
    job = prepare(options)
    outcome = execute(job, options)
    assert outcome.result["chosen"]["bank"]["learner"] == "sums"
    kept = scenario_from_json((job.folder / "scenario.json").read_text(encoding="utf-8"))
    assert kept.chosen is not None
    assert kept.chosen.written["learner"] == "auto"
