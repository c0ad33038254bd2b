"""Strategies that need something special of a message, on real Flower processes: one federation, a run for each.

What all the others do lies in the coordinator's process alone, the same on both engines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tomli_w
import torch

from consortia.cli.budget import allow, init
from consortia.engines.flower import Federation
from consortia.home import Home
from consortia.runner import Options, execute, prepare
from consortia.scenario import load_scenario
from consortia.strict import read_toml

pytestmark = pytest.mark.end_to_end

ROUNDS = 2
CHOICES: dict[str, dict[str, Any]] = {
    "scaffold": {},
    "cyclic": {},
    "qfedavg": {"options": {"q": 1.0}},
    "fedyogi": {"server_learning_rate": 0.1},
}


def _file(folder: Path, name: str) -> Path:
    data = load_scenario("linear").model_dump(mode="json", by_alias=True, exclude_none=True)
    data["contract"] |= {"rounds": ROUNDS, "releases": ["update", "metrics"] if name == "qfedavg" else ["update"]}
    data["contract"]["strategy"] |= {"name": name, **CHOICES[name]}
    data["expect"] = {}
    for seat in data["roster"]:
        seat["epsilon"] = float("inf")
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    policies = folder / "policies" / name
    policies.mkdir(parents=True)
    for seat in data["roster"]:
        policy = read_toml(Path(__file__).parents[2] / "scenarios" / "policies" / "linear" / f"{seat['name']}.toml")
        policy["allow"] |= {"releases": ["update", "metrics"], "exact_metrics": True}
        (policies / f"{seat['name']}.toml").write_text(tomli_w.dumps(policy), encoding="utf-8")
    return path


def _model(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load((folder / "model" / "linear.safetensors").read_bytes())


def test_both_engines_give_the_same_non_private_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = tmp_path / "homes"
    monkeypatch.setenv("CONSORTIA_HOME", str(homes))
    files = {name: str(_file(tmp_path, name)) for name in CHOICES}
    for seat in ("line-a", "line-b"):
        Home(homes / seat, seat).create(split_seed=0)  # the split key of the simulation, so that the same rows train
    init("", scenario=files["qfedavg"])
    for seat in ("line-a", "line-b"):
        for file in files.values():
            allow(seat, file)
    simulated = {}
    for name, file in files.items():
        options = Options(scenario=file, out=tmp_path / "simulated")
        simulated[name] = _model(execute(prepare(options), options).job.folder)

    jobs = {
        name: prepare(Options(scenario=file, engine="flower", out=tmp_path / "deployed"))
        for name, file in files.items()
    }
    first = jobs["scaffold"]
    with Federation(first) as federation:
        federation.start()
        for name, job in jobs.items():
            federation.job = job
            federation.submit()
            federation.wait()
            got = _model(job.folder)
            assert all(torch.equal(tensor, simulated[name][n]) for n, tensor in got.items()), name
            record = json.loads((job.folder / "coordinator.json").read_text())
            asked = [line["replies"] for line in record["history"]]
            assert asked == ([["line-a"], ["line-b"]] if name == "cyclic" else [["line-a", "line-b"]] * ROUNDS)
