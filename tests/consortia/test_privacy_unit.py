"""Whom one unit of privacy is stands in the roster, too: everybody sees it in the plan, and a mismatch is refused."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from typer.testing import CliRunner

from consortia.common.errors import InputError
from consortia.coordinator.ledger_heads import Heads
from consortia.coordinator.mailbox import header_to
from consortia.terms.scenario import find_scenario, load_scenario, scenario_from_json, scenario_from_toml


def _headed(site: Any, unit: str) -> str:
    """Return the proposal as the coordinator writes it for a roster with that unit."""
    line = site.scenario.participant(site.name).model_copy(update={"unit": unit})
    return header_to(line, "train", "run-1", site.scenario.contract, Heads(None))["proposal"]


@pytest.mark.parametrize(("unit", "status"), [("", "OK"), ("record", "OK"), ("customer_id", "REFUSED")])
def test_a_participant_refuses_a_unit_that_its_policy_does_not_protect(site: Any, unit: str, status: str) -> None:
    reply = site.ask(1, proposal=_headed(site, unit))
    assert reply.header["status"] == status
    with site.ledger() as ledger:
        assert bool(ledger.entries()) == (status == "OK")
    if status == "REFUSED":
        assert reply.header["code"] == "UNIT_MISMATCH"
        assert not reply.tensors


def test_rosters_without_a_unit_stay_as_they_are() -> None:
    scenario = load_scenario("banks-network")
    assert all("unit" not in line for line in json.loads(scenario.to_json())["roster"])
    line = scenario.roster[0]
    told = header_to(line, "train", "run-1", scenario.contract, Heads(None))["proposal"]
    assert json.loads(told).keys() == {"dataset", "epsilon", "delta"}
    named = scenario.model_copy(update={"roster": (line.model_copy(update={"unit": "customer_id"}),)})
    assert scenario_from_json(named.to_json()).roster[0].unit == "customer_id"
    assert named.contract.sha256() == scenario.contract.sha256()


def _with(tmp_path: Path, change: Callable[[str], str]) -> Path:
    file = find_scenario("banks-network")
    policies = tmp_path / "policies" / "banks-network"
    shutil.copytree(file.parent / "policies" / "banks-network", policies)
    copy = tmp_path / "banks-network.toml"
    copy.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    return copy


def test_check_shows_the_unit_and_refuses_another_one(tmp_path: Path) -> None:
    file = _with(tmp_path, lambda text: text.replace("\nunits = ", '\nunit = "record"\nunits = '))
    words = ["check", str(file)]
    told = CliRunner().invoke(APP, words, env={"COLUMNS": "200"})
    assert told.exit_code == 0, told.output
    assert "record" in told.output
    assert "policy names" not in told.output
    file.write_text(file.read_text(encoding="utf-8").replace('unit = "record"', 'unit = "customer_id"', 1))
    refused = CliRunner().invoke(APP, words, env={"COLUMNS": "200"})
    assert refused.exit_code == 2
    said = " ".join(refused.output.split())
    first = tomllib.loads(file.read_text(encoding="utf-8"))["roster"][0]["name"]
    assert f"{first}: dataset." in said
    assert "unit: wanted 'customer_id', as roster.unit says to everybody, got 'record'" in said


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("[contract]\n", "contract.unit: unknown key; it belongs to roster or contract.central"),
        ("[[roster]]\n", ""),
    ],
)
def test_a_unit_in_a_wrong_place_is_told_where_it_belongs(place: str, told: str) -> None:
    text = find_scenario("banks-network").read_text(encoding="utf-8").replace(place, f'{place}unit = "record"\n')
    if not told:
        scenario_from_toml(text)
        return
    with pytest.raises(InputError, match=told):
        scenario_from_toml(text)
