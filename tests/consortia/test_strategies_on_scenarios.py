"""Every strategy runs every committed scenario that it claims to fit, embedded, and is refused by the others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from series import Unmeasured

from consortia import server_app
from consortia.common.errors import InputError
from consortia.common.strict import read_toml
from consortia.coordinator.checkpoint import load_latest
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.planning.compatibility import fits_with
from consortia.planning.plan import make_plans
from consortia.terms.scenario import Scenario, committed_scenarios, find_scenario, load_scenario, scenario_folder
from strategies.base import LocalHalf
from strategies.registry import NAMES, make

pytestmark = pytest.mark.end_to_end

OPTIONS: dict[str, dict[str, Any]] = {
    "fedprox": {"mu": 0.1},
    "fedbuff": {"buffer_size": 2},
    "clustered": {"after": 1, "least": 1, "separation": 0.0},
    "norm-bound": {"relative": 1.2},
    "server-optimizer": {"optimizer": "adam"},
}
#: Under a trusted coordinator with a thousand homes: `test_central.py` has that for few of them. Sums have no strategy.
#: `digits` and `heartbeats` stand for the other networks of images and sequences, which take longer;
#: `test_kinds_of_models.py` runs every kind of network on a few rows.
#: Read as plain TOML: this runs whenever tests are collected, and a contract's noise takes long to settle.
SCENARIOS = [
    name
    for name in committed_scenarios()
    if "vertical" not in (contract := read_toml(find_scenario(name))["contract"])
    and contract.get("learner", "gradient") == "gradient"
    and contract.get("trust") != "coordinator"
    and name not in {"imaging", "recommendations", "turbofans", "turbofans-life"}
]


def _file(folder: Path, scenario: str, name: str) -> Path:
    """Write one round of the scenario with this strategy; where it needs an exact loss, without privacy."""
    strategy = make(name, options=OPTIONS.get(name, {}))
    data = load_scenario(scenario).model_dump(mode="json", by_alias=True, exclude_none=True)
    summed = data["contract"]["trust"] == "aggregate"
    data["contract"] |= {
        "rounds": 1,
        "strategy": {"name": name, "weighting": "declared" if summed else "equal", "options": OPTIONS.get(name, {})},
        "releases": ["update", "metrics"] if strategy.fit.loss else ["update"],
    }
    data["expect"] = {}
    for rules in data["contract"]["industries"].values():
        rules |= {"local_steps": 1, "private_steps": 0}
        for refined in ("optimizer", "schedule"):  # some strategies reckon with plain steps
            rules.pop(refined, None)
    for participant in data["roster"]:
        participant["epsilon"] = float("inf") if strategy.fit.loss else float(participant["epsilon"])
    shutil.copytree(scenario_folder() / "policies" / scenario, folder / "policies" / name)
    for policy in (folder / "policies" / name).glob("*.toml") if strategy.fit.loss else ():
        text = policy.read_text(encoding="utf-8").replace('["update"]', '["update", "metrics"]')
        text = text.replace("exact_metrics = false", "exact_metrics = true")
        policy.write_text(text.replace("non_private = false", "non_private = true"), encoding="utf-8")
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    return path


def _refused(path: Path) -> str | None:
    try:
        make_plans(load_scenario(str(path)))
    except InputError as error:
        return str(error)
    return None


def _smallest_group(scenario: Scenario) -> int:
    industries = [participant.industry for participant in scenario.roster]
    return min(industries.count(name) for name in industries)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_strategy_runs_where_it_fits(scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_app, "Coordinator", Unmeasured)
    committed = load_scenario(scenario)
    summed = committed.contract.trust == "aggregate"
    ran = []
    for name in NAMES:
        path = _file(tmp_path, scenario, name)
        refused = _refused(path)
        strategy = make(name, options=OPTIONS.get(name, {}))
        fits = _smallest_group(committed) >= strategy.minimum_participants
        if summed:
            fits = strategy.fit.sum_only and not isinstance(strategy, LocalHalf)
        assert (refused is None) == fits, (name, refused)
        if refused is not None:
            continue
        if summed:
            assert fits_with(load_scenario(str(path)))["secure sum"] == "yes"
        options = Options(scenario=str(path), out=tmp_path / "runs")
        outcome = execute(prepare(options), options)
        assert outcome.result["status"] == "completed", name
        assert outcome.result["history"][0]["replies"], name
        kept = load_latest(outcome.job.folder)
        assert kept is not None
        assert all(torch.isfinite(t).all() for group in kept.groups.values() for t in group.values()), name
        ran.append(name)
    assert {"fedavg"} <= set(ran)
