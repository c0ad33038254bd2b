"""`consortia statistics` from scenario to record: charged, refused without a budget, compared at home."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from command_line import APP
from typer.testing import CliRunner

from consortia.audit.recount import recounted
from consortia.common.errors import InputError, RefusedError
from consortia.engines.options import Options
from consortia.engines.runner import Outcome, execute, prepare
from consortia.terms.policy import Proposal, check_contract, load_policy
from consortia.terms.scenario import load_scenario, scenario_from_toml
from consortia.terms.statistics_scenario import statistics_scenario, statistics_toml
from privacy.ledger import Ledger


def _run(scenario: str, out: Path, **options: Any) -> Outcome:
    chosen = Options(scenario=scenario, out=out, **options)
    return execute(prepare(chosen, change=statistics_scenario), chosen)


@pytest.mark.end_to_end
def test_local_noise_is_charged_once_and_says_where_sites_differ(tmp_path: Path) -> None:
    outcome = _run("hospitals-network", tmp_path, epsilon=("4",))
    result = outcome.result
    assert (result["status"], outcome.missed, result["synthetic"]) == ("completed", [], True)
    found = result["statistics"]["hospital"]
    assert set(found["sites"]) == {"cleveland", "hungarian", "switzerland", "va"}
    assert any(verdict["differ"] for verdict in found["differ"].values())  # the generator's sites are unlike
    for name, home in outcome.job.homes.items():
        with Ledger.open(home.ledger, name) as ledger:
            (entry,) = ledger.export()["entries"]
        delta = result["participants"][name]["epsilon"]["delta"]
        assert [event["kind"] for event in entry["events"]] == ["gaussian"]
        assert 3.9 < recounted(entry["events"], delta) <= 4.0 + 1e-6
        own = json.loads((home.folder / "runs" / outcome.job.run_id / "statistics.json").read_text(encoding="utf-8"))
        assert own["own"]["units"]["value"] == pytest.approx(own["training_units"])
        assert own["own"]["deviation"] == 0.0
        assert own["rest"]["deviation"] > 0
        assert not list(home.folder.rglob("own-sums*"))
    text = (outcome.job.folder / "statistics.json").read_text(encoding="utf-8")
    assert '"own"' not in text


@pytest.mark.end_to_end
def test_of_a_secure_sum_nobody_sees_one_site(tmp_path: Path) -> None:
    outcome = _run("secure-banks-network", tmp_path, epsilon=("8",))
    found = outcome.result["statistics"]["bank"]
    assert (outcome.result["status"], found["sites"], found["differ"]) == ("completed", {}, {})
    units = sum(participant["training_units"] for participant in _at_home(outcome).values())
    together = found["together"]["units"]
    # The interval is of 95 %: one run in twenty may well miss it, none by this much.
    assert together["value"] == pytest.approx(units, abs=5 * (together["high"] - together["low"]))
    for participant in _at_home(outcome).values():
        rest = participant["rest"]["units"]
        assert rest["value"] == pytest.approx(
            units - participant["training_units"], abs=5 * (rest["high"] - rest["low"])
        )


def _at_home(outcome: Outcome) -> dict[str, dict[str, Any]]:
    files = {n: h.folder / "runs" / outcome.job.run_id / "statistics.json" for n, h in outcome.job.homes.items()}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}


def test_a_policy_that_names_no_budget_for_them_refuses(tmp_path: Path) -> None:
    contract = statistics_scenario(load_scenario("hospitals-network")).contract
    text = Path("scenarios/policies/hospitals-network/cleveland.toml").read_text(encoding="utf-8")
    file = tmp_path / "policy.toml"
    file.write_text(text.replace('releases = ["update"]', 'releases = ["statistics"]'), encoding="utf-8")
    policy = load_policy(file, simulation=True)
    with pytest.raises(RefusedError, match=r"budget\.statistics"):
        check_contract(policy, contract, "hospital", Proposal(next(iter(policy.dataset)), 0.5, 1e-5))


def test_the_scenario_can_be_written_checked_and_allowed(tmp_path: Path) -> None:
    file = tmp_path / "first-look.toml"
    runner = CliRunner()
    told = runner.invoke(APP, ["statistics", "hospitals-network", "--write", str(file)])
    assert told.exit_code == 0, told.output
    assert load_scenario(str(file)).contract.statistics is not None
    assert load_scenario(str(file)).contract.sha256() in told.output.replace("\n", "")
    planned = runner.invoke(APP, ["check", str(file)])
    assert planned.exit_code == 0, planned.output
    assert "nothing is trained" in planned.output


def test_a_vertical_scenario_is_refused() -> None:
    with pytest.raises(InputError, match="different columns"):
        statistics_toml(load_scenario("shared-heart"))


@pytest.mark.parametrize(
    ("change", "wanted"),
    [({"rounds": 2}, "rounds = 1"), ({"releases": ["update"]}, "releases"), ({"learner": "sums"}, "exactly where")],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], wanted: str) -> None:
    data = tomllib.loads(statistics_toml(load_scenario("hospitals-network")))
    data["contract"] |= change
    with pytest.raises(InputError, match=wanted):
        scenario_from_toml(tomli_w.dumps(data))
