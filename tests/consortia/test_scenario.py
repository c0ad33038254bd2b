"""Scenario files are strict: every mistake is reported, together, by path."""

from __future__ import annotations

import math
import tomllib

import pytest
import tomli_w

from consortia.common.errors import InputError
from consortia.terms.contract import contract_from_json
from consortia.terms.scenario import (
    committed_scenarios,
    find_scenario,
    load_scenario,
    scenario_from_json,
    scenario_from_toml,
)

SCENARIOS = committed_scenarios()


def _text(name: str = "cross-industry-network", **changes: object) -> str:
    data = tomllib.loads(find_scenario(name).read_text(encoding="utf-8"))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = data
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[last] = value
    return tomli_w.dumps(data)


def test_the_committed_scenarios_are_there() -> None:
    networks = {f"{name}-network" for name in ("banks", "cross-industry", "factories", "hospitals", "secure-banks")}
    assert {"banks", "factories", "hospitals", "linear", "linear-fedsgd", "secure-banks", *networks} <= set(SCENARIOS)


@pytest.mark.parametrize(("name", "learner"), [("banks", "sums"), ("hospitals", "sums"), ("factories", "additive")])
def test_the_rule_would_choose_the_learner_of_the_scenario(name: str, learner: str) -> None:
    data = tomllib.loads(find_scenario(name).read_text(encoding="utf-8"))
    data["contract"]["learner"] = "auto"
    chosen = scenario_from_toml(tomli_w.dumps(data))
    assert chosen.contract == load_scenario(name).contract
    assert chosen.contract.learner == learner


def test_a_former_name_is_refused_with_the_name_it_has_now() -> None:
    with pytest.raises(InputError, match="'banks-sums': it is called 'banks' now"):
        find_scenario("banks-sums")


@pytest.mark.parametrize("name", SCENARIOS)
def test_committed_scenarios_load_and_survive_json(name: str) -> None:
    scenario = load_scenario(name)
    assert scenario_from_json(scenario.to_json()) == scenario
    again = contract_from_json(scenario.contract.canonical())
    assert again.sha256() == scenario.contract.sha256()


def test_all_mistakes_are_reported_together_by_path() -> None:
    text = _text(
        contract__rounds=0,
        contract__industries__bank__clip=-1.0,
        contract__industries__bank__lerning_rate=0.1,
        roster__0__epsilon="much",
    )
    with pytest.raises(InputError) as caught:
        scenario_from_toml(text, "s.toml")
    problems = caught.value.problems
    assert len(problems) == 4
    joined = "\n".join(problems)
    assert "s.toml: contract.rounds: wanted greater than or equal to 1, got 0" in joined
    assert "contract.industries.bank.clip: wanted greater than 0, got -1.0" in joined
    assert "contract.industries.bank.lerning_rate: unknown key; did you mean 'learning_rate'?" in joined
    assert "roster.0.epsilon: wanted a valid number, got 'much'" in joined


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 9}, "schema: wanted 1 (what this version reads), got 9"),
        ({"contract__schema": 2}, "contract: schema: wanted 1"),
        ({"contract__wire": 7}, "wire = 1"),
        ({"contract__mode": "diagonal"}, "'horizontal' or 'vertical'"),
        ({"roster__0__epsilon": 0.0}, "greater than 0"),
        ({"roster__0__epsilon": -1.0}, "greater than 0"),
        ({"roster__0__delta": 0.5}, "delta < 1/units"),
        ({"roster__0__industry": "spaceport"}, "an installed industry"),
        ({"roster__1__name": "hospital-a"}, "every name once"),
        ({"contract__releases": []}, "releases that include 'update'"),
        ({"contract__split": {"train": 0.5, "validation": 0.1, "test": 0.1}}, "= 1"),
        ({"contract__scopes": {"encoder": "private", "trunk": "private", "head": "private"}}, "not 'private'"),
        ({"contract__industries__bank__model": {"kind": "mlp"}}, "hidden widths"),
        ({"contract__rounds": "ten"}, "a valid integer"),
        ({"contract__rounds": True}, "a valid integer"),
    ],
)
def test_bad_values(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        scenario_from_toml(_text(**changes))
    assert words in str(caught.value)


def test_fedsgd_wants_one_step() -> None:
    with pytest.raises(InputError, match="local_steps = 1"):
        scenario_from_toml(_text("linear-fedsgd", contract__industries__linear__local_steps=2))


def test_syntax_error_and_missing_file() -> None:
    with pytest.raises(InputError, match="syntax error"):
        scenario_from_toml("schema = [")
    with pytest.raises(InputError, match="check the spelling"):
        load_scenario("cross-industri")
    with pytest.raises(InputError, match="check the path"):
        load_scenario("nowhere/x.toml")


def test_the_roster_is_not_hashed_and_the_contract_is() -> None:
    scenario = load_scenario("banks-network")
    fewer = scenario_from_toml(
        _text("banks-network", roster=tomllib.loads(find_scenario("banks-network").read_text())["roster"][:3])
    )
    assert fewer.contract.sha256() == scenario.contract.sha256()
    assert scenario.with_overrides(rounds=3).contract.sha256() != scenario.contract.sha256()


def test_epsilon_overrides() -> None:
    scenario = load_scenario("cross-industry-network")
    assert scenario.with_overrides(epsilon=["2.5"]).participant("bank-a").epsilon == 2.5
    changed = scenario.with_overrides(epsilon=["hospital-a=0.5", "bank-b=inf"])
    assert changed.participant("hospital-a").epsilon == 0.5
    assert changed.participant("bank-b").non_private
    assert math.isinf(scenario_from_json(changed.to_json()).participant("bank-b").epsilon)
    for bad in ("0", "-1", "x", "nan", "nobody=1", "hospital-a="):
        with pytest.raises(InputError, match="--epsilon"):
            scenario.with_overrides(epsilon=[bad])
