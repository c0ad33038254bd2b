"""Every strategy on real Flower processes: the model is the embedded engine's to the bit.

One federation of seven lines, its processes started once; each strategy is a run of its own on as few of them as it
takes. Non-private and without the closing evaluation, so that nothing but the strategy's two halves is compared.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tomli_w
import torch
from series import SeriesFederation, Unmeasured

from consortia import server_app
from consortia.cli.budget import allow, init
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.participant.home import Home
from consortia.terms.scenario import load_scenario
from consortia.terms.strategy import StrategyTerms
from strategies.base import Asynchronous
from strategies.registry import NAMES

pytestmark = pytest.mark.end_to_end

ROUNDS = 2
LINES = tuple(f"line-{letter}" for letter in "abcdefg")
SLEEPS, AFTER = "one asleep", "late reply"
TERMS: dict[str, dict[str, Any]] = {
    "fedsgd": {"server_learning_rate": 0.5},
    "fedprox": {"options": {"mu": 0.5}},
    "qfedavg": {"options": {"q": 1.0}},
    "clustered": {"options": {"after": 1, "least": 1, "separation": 0.0}},
    "fedbuff": {"options": {"buffer_size": 2}},
    "semi-sync": {"options": {"window_seconds": 60.0}},
    "fedadagrad": {"server_learning_rate": 0.1},
    "fedadam": {"server_learning_rate": 0.1},
    "fedyogi": {"server_learning_rate": 0.1},
    "server-optimizer": {"server_learning_rate": 0.1, "options": {"optimizer": "adam"}},
    "norm-bound": {"options": {"relative": 1.2}},
}
#: Who comes first is an accident without rounds: FedAsync plays alone, FedBuff one step of everybody.
SHAPE: dict[str, dict[str, int]] = {"fedasync": {"participants": 1}, "fedbuff": {"rounds": 1, "most": 1}}
#: Two of three can fill every buffer, so nobody waits for the third, who is asleep; its reply comes in the next run.
EXTRA: dict[str, dict[str, Any]] = {
    SLEEPS: {"name": "fedbuff", "participants": 3, "rounds": 3, "most": 3},
    AFTER: {"name": "fedavg", "participants": 3},
}


def _file(folder: Path, name: str) -> Path:
    """Write the scenario `linear` with this strategy and as few lines as it takes, and their policies."""
    shape = {"name": name, **SHAPE.get(name, {}), **EXTRA.get(name, {})}
    strategy = {"name": shape["name"], "weighting": "equal", **TERMS.get(shape["name"], {})}
    data = load_scenario("linear").model_dump(mode="json", by_alias=True, exclude_none=True)
    releases = ["update", "metrics"] if name == "qfedavg" else ["update"]
    built = StrategyTerms.model_validate(strategy).strategy()
    rounds = 1 if built.fit.per_attacker else ROUNDS  # robust ones keep nothing between rounds
    data["contract"] |= {"rounds": shape.get("rounds", rounds), "releases": releases, "strategy": strategy}
    data["contract"]["industries"]["linear"]["local_steps"] = 1 if name == "fedsgd" else 3
    if "most" in shape:
        data["contract"]["max_participations"] = shape["most"]
    data["expect"] = {}
    participants = shape.get("participants", max(2, built.minimum_participants))
    data["roster"] = [
        data["roster"][0] | {"name": line, "site": "ab"[i % 2], "units": 40, "epsilon": float("inf")}
        for i, line in enumerate(LINES[:participants])
    ]
    stem = name.replace(" ", "-")
    path = folder / f"{stem}.toml"
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    (folder / "policies" / stem).mkdir(parents=True)
    for i, line in enumerate(LINES[:participants]):
        policy = {
            "schema": 1,
            "participant": line,
            "dataset": {
                "line": {
                    "industry": "linear",
                    "source": f"synthetic:40?seed={i}",
                    "site": "ab"[i % 2],
                    "unit": "record",
                    "declared_units": 40,
                }
            },
            "budget": {
                "run": {"epsilon": 1.0, "delta": 1e-5},
                "lifetime": {"epsilon": 4.0, "delta": 4e-5},
            },
            "allow": {
                "releases": ["update", "metrics"],
                "exact_metrics": True,
                "non_private": True,
                "contracts": "any",
            },
            "demo": True,
        }
        (folder / "policies" / stem / f"{line}.toml").write_text(tomli_w.dumps(policy), encoding="utf-8")
    return path


def _model(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load((folder / "model" / "linear.safetensors").read_bytes())


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "coordinator.json").read_text())
    return record


def test_every_strategy_gives_the_embedded_engines_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSORTIA_HOME", str(tmp_path / "homes"))
    monkeypatch.setattr(server_app, "Coordinator", Unmeasured)
    most = max(NAMES, key=lambda name: StrategyTerms(name=name, **TERMS.get(name, {})).strategy().minimum_participants)
    names = [most, *(name for name in NAMES if name != most), SLEEPS, AFTER]
    files = {name: str(_file(tmp_path, name)) for name in names}
    for line in LINES:
        Home(tmp_path / "homes" / line, line).create(split_seed=0)  # a simulation's split key: the same rows train
    init("", scenario=files[most])
    jobs, wanted = {}, {}
    for name, file in files.items():
        for participant in load_scenario(file).roster:
            allow([participant.name, file])
        jobs[name] = prepare(Options(scenario=file, engine="flower", out=tmp_path / "deployed"))
        if name != SLEEPS:
            options = Options(scenario=file, out=tmp_path / "simulated")
            wanted[name] = _model(execute(prepare(options), options).job.folder)

    gates = {name: tmp_path / f"{name}.gate" for name in (SLEEPS, AFTER)}
    with SeriesFederation(list(jobs.values()), [gates.get(name) for name in names]) as federation:
        federation.start()
        federation.submit()

        def finished(name: str) -> None:
            federation.job = jobs[name]
            federation.wait()

        finished(NAMES[-1])
        launcher = federation.processes["line-c-app"].pid
        os.killpg(launcher, signal.SIGSTOP)
        gates[SLEEPS].touch()
        finished(SLEEPS)
        os.killpg(launcher, signal.SIGCONT)
        gates[AFTER].touch()
        finished(AFTER)

    for name, model in wanted.items():
        got = _model(jobs[name].folder)
        assert all(torch.equal(tensor, model[n]) for n, tensor in got.items()), name
        strategy = jobs[name].scenario.contract.strategy.strategy()
        asked = [line["replies"] for line in _record(jobs[name].folder)["history"]]
        participants = [participant.name for participant in jobs[name].scenario.roster]
        rounds = jobs[name].scenario.contract.rounds
        assert asked == ([["line-a"], ["line-b"]] if name == "cyclic" else [participants] * rounds)
        assert isinstance(strategy, Asynchronous) == ("version" in _record(jobs[name].folder)["history"][0])
    slept = _record(jobs[SLEEPS].folder)
    assert slept["status"] == "completed"
    assert len(slept["history"]) == 3
    assert not any("line-c" in line["replies"] for line in slept["history"])
    late = _record(jobs[AFTER].folder)["participants"]["line-c"]["failures"]
    assert [failure["code"] for failure in late] == ["LATE_REPLY"]
