"""Without demonstration policies: homes, plans and sweeps go by the roster's proposals or by the homes' policies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomlkit
from command_line import APP
from typer.testing import CliRunner, Result

from consortia.common.errors import InputError
from consortia.engines.options import Options
from consortia.engines.runner import prepare
from consortia.studies.sweep import Sweep, check
from consortia.terms.policy import load_policy, parse_policy
from consortia.terms.proposed_policy import proposed_policy, simulated_policy
from consortia.terms.scenario import committed_scenarios, find_scenario, load_scenario


def call(*words: str) -> Result:
    return CliRunner().invoke(APP, list(words), env={"COLUMNS": "200"})


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """Return a scenario without policies beside it, whose second bank protects customers."""
    text = find_scenario("banks-network").read_text(encoding="utf-8").replace("rounds = ", "rounds = 2  # was ", 1)
    document = tomlkit.parse(text)
    document["roster"][1]["unit"] = "customer_id"  # type: ignore[index]
    file = tmp_path / "alone.toml"
    file.write_text(tomlkit.dumps(document), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", committed_scenarios())
def test_a_simulation_accepts_the_policy_that_is_made_of_its_roster(name: str) -> None:
    scenario = load_scenario(name, settle=False)
    line = scenario.roster[0]
    if scenario.contract.vertical is not None:
        with pytest.raises(InputError, match="its own file, since the contract is vertical"):
            simulated_policy(scenario, line)
        return
    policy = parse_policy(tomlkit.dumps(simulated_policy(scenario, line)), "made")
    assert policy.demo
    owners = parse_policy(tomlkit.dumps(proposed_policy(line, scenario.contract)), "made")
    assert not owners.demo
    allow = owners.allow
    assert (allow.non_private, allow.exact_metrics, allow.trusted_coordinator) == (False, False, False)
    assert owners.allow.contracts == (f"sha256:{scenario.contract.sha256()}",)


def test_budget_init_keeps_an_owners_policy_and_makes_the_others_from_the_roster(alone: Path, tmp_path: Path) -> None:
    homes = tmp_path / "homes"
    scenario = load_scenario(str(alone))
    first, second = scenario.roster[:2]
    own = proposed_policy(first.model_copy(update={"epsilon": 0.25}))
    (homes / first.name).mkdir(parents=True)
    (homes / first.name / "policy.toml").write_text(tomlkit.dumps(own), encoding="utf-8")
    done = call("budget", "init", "--scenario", str(alone), "--home", str(homes))
    assert done.exit_code == 0, done.output
    kept = load_policy(homes / first.name / "policy.toml", simulation=False)
    assert kept.budget.run.epsilon == 0.25
    assert kept.allow.contracts == ()
    made = load_policy(homes / second.name / "policy.toml", simulation=False)
    assert made.dataset[second.dataset].unit == "customer_id"
    assert made.budget.run.epsilon == second.epsilon
    assert all((homes / line.name / "ledger.db").is_file() for line in scenario.roster)


def test_a_plan_and_a_sweep_need_no_policies(alone: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"without a policy a participant refuses\. `consortia budget init"):
        prepare(Options(scenario=str(alone), out=tmp_path / "runs"))
    job = prepare(Options(scenario=str(alone), out=tmp_path / "runs", proposed_policies=True))
    names = [line.name for line in job.scenario.roster]
    policy = load_policy(job.homes[names[1]].policy, simulation=True)
    assert policy.demo
    assert policy.dataset[job.scenario.roster[1].dataset].source.startswith("synthetic:")
    told = call("budget", "plan", str(alone), "--seeds", "0", "--epsilon", "1", "--json", "--participant", names[1])
    assert told.exit_code == 0, told.output
    assert json.loads(told.output)["participants"][names[1]]["unit"] == "customer_id"


def test_a_sweep_of_the_homes_own_rows_needs_each_owners_word(alone: Path, tmp_path: Path) -> None:
    homes = tmp_path / "homes"
    call("budget", "init", "--scenario", str(alone), "--home", str(homes))
    asked = Sweep(scenario=str(alone), participant="", epsilons=(1.0,), seeds=1, ledger=homes)
    with pytest.raises(InputError, match=r"allow\.sweeps: wanted true, got false"):
        check(asked)
    for file in homes.glob("*/policy.toml"):
        file.write_text(file.read_text(encoding="utf-8").replace("[allow]", "[allow]\nsweeps = true"), "utf-8")
    assert check(asked).name == load_scenario(str(alone)).name
