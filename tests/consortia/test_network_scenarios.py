"""The scenarios of images, sequences and survival: rosters that fit their clients, receipts, Flower's processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tomli_w
from own_homes import own_homes

from clients import recommendations, registry, turbofans
from consortia.common.errors import InputError
from consortia.common.strict import read_toml
from consortia.engines.data_folder import public_sources
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.terms.scenario import find_scenario, load_scenario, scenario_folder

NAMES = ("heartbeats", "imaging", "recommendations", "survival", "turbofans", "turbofans-life")


def _smaller(folder: Path, name: str, kept: int = 2) -> str:
    """Write the scenario with its smallest participants and one round."""
    data = read_toml(find_scenario(name))
    data["contract"]["rounds"] = 1
    data["roster"] = data["roster"][-kept:]
    shutil.copytree(scenario_folder() / "policies" / name, folder / "policies" / name)
    (folder / f"{name}.toml").write_text(tomli_w.dumps(data), encoding="utf-8")
    return str(folder / f"{name}.toml")


@pytest.mark.parametrize("name", NAMES)
def test_the_unit_is_the_one_that_the_schema_names(name: str) -> None:
    scenario = load_scenario(name)
    client = registry.get(scenario.roster[0].industry)
    assert [line.site for line in scenario.roster] == list(client.sites)
    for line in scenario.roster:
        assert (line.unit or "record") == client.schema.unit
        dataset = read_toml(scenario_folder() / "policies" / name / f"{line.name}.toml")["dataset"][line.dataset]
        assert (dataset["unit"], dataset["declared_units"]) == (client.schema.unit, line.units)
    if client.schema.unit == "engine":
        assert [line.units for line in scenario.roster] == [2 * number for number in turbofans.FACTORIES.values()]
    if client.schema.unit == "user":
        assert [line.units for line in scenario.roster] == list(recommendations.PROVIDERS.values())


def test_data_of_another_industry_s_folder_are_found_below_the_whole_folder(tmp_path: Path) -> None:
    scenario = load_scenario("heartbeats")
    with pytest.raises(InputError, match="wanted hospital/ecg5000 in it, got no such folder"):
        public_sources(scenario, tmp_path)
    (tmp_path / "hospital" / "ecg5000").mkdir(parents=True)
    assert set(public_sources(scenario, tmp_path).values()) == {f"public:{tmp_path.resolve()}"}


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", NAMES)
def test_a_run_on_made_up_rows_ends_with_receipts(name: str, tmp_path: Path) -> None:
    options = Options(scenario=_smaller(tmp_path, name), out=tmp_path / "runs", seed=1)
    result = execute(prepare(options), options).result
    assert result["status"] == "completed"
    for participant in result["participants"].values():
        measured = participant["metrics"][participant["headline"]]
        assert all(measured[model] is not None for model in ("local", "control", "federated", "joined"))
        assert participant["epsilon"]["unit"] == registry.get(participant["industry"]).schema.unit
        assert participant["epsilon"]["run"] <= participant["epsilon"]["budget"] == 8


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", ["heartbeats", "recommendations", "turbofans"])
def test_a_run_on_flower_s_processes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes, scenario = tmp_path / "homes", _smaller(tmp_path, name)
    names = own_homes(scenario, homes, monkeypatch)
    options = Options(scenario=scenario, engine="flower", out=tmp_path / "runs")
    job = prepare(options)
    result = execute(job, options).result
    assert result["status"] == "completed"
    assert list(result["participants"]) == names
    for each in names:
        receipt = json.loads((homes / each / "runs" / job.run_id / "receipt.json").read_text(encoding="utf-8"))
        assert receipt["metrics"][receipt["headline"]]["federated"] is not None
