"""Kinds of networks on real Flower processes: the model is the embedded engine's to the bit.

One federation of two offices, its processes started once; each kind is a run of its own, on a data set of its own.
Whole scenarios play `cnn`, `gru`, `two-tower` and `autoencoder` (`test_network_scenarios.py`, `test_intrusions.py`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import kinds_of_models as kinds
import pytest
import safetensors.torch
import tomli_w
import torch
from packages import Packages
from series import SeriesFederation, Unmeasured

from clients import registry
from consortia import server_app
from consortia.cli.budget import allow, init
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.participant.home import Home
from consortia.terms.scenario import load_scenario

pytestmark = pytest.mark.end_to_end

PLAYED = ("mlp", "tcn", "lstm", "transformer", kinds.OWN)
BELOW, SURVIVAL = "cnn below sums", "survival"
OFFICES = ("office-0", "office-1")
#: What makes the same clients in every process.
CLIENTS = """
import sys
sys.path.append({helpers!r})
import kinds_of_models as kinds
"""


def _install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every process find the clients, and the network that a package brings."""
    packages = Packages(folder, monkeypatch)
    packages.install(*kinds.OWN_PACKAGE, own_network=kinds.OWN_MODULE)
    names = {kinds.client_of(kind).name: kind for kind in (*PLAYED, "cnn")}
    code = CLIENTS.format(helpers=str(Path(kinds.__file__).parent))
    code += "".join(f"{name.upper()} = kinds.client_of({kind!r})\n" for name, kind in names.items())
    points = "".join(f"{name} = tiny_kinds:{name.upper()}\n" for name in names)
    packages.install("tiny-kinds", f"[{registry.GROUP}]\n{points}", tiny_kinds=code)
    path = os.pathsep.join(part for part in (str(folder), os.environ.get("PYTHONPATH", "")) if part)
    monkeypatch.setenv("PYTHONPATH", path)


def _written(folder: Path) -> dict[str, str]:
    """Write a scenario of each kind for the same offices; return their paths. Every policy has all data sets."""
    files = {}
    for kind in PLAYED:
        rounds = lambda contract: contract.update(rounds=2)  # noqa: E731
        files[kind] = kinds.write(folder / kind.replace(":", "-"), kind, rounds, participants=2, private=False)
    files[BELOW] = kinds.write(folder / "below", "cnn", kinds.below_sums, participants=2, private=False)
    files[SURVIVAL] = _survival(folder / "survival")
    datasets: dict[str, dict[str, Any]] = {office: {} for office in OFFICES}
    for place, (kind, file) in enumerate(files.items()):
        data = _toml(Path(file))
        data["name"] = f"tiny-{place}"
        for line in data["roster"]:
            line["dataset"] = f"rows-{place}"
        for office in OFFICES:
            policy = _toml(Path(file).parent / "policies" / "tiny" / f"{office}.toml")
            datasets[office][f"rows-{place}"] = policy["dataset"]["rows"]
        path = folder / f"tiny-{place}.toml"
        path.write_text(tomli_w.dumps(data), encoding="utf-8")
        files[kind] = str(path)
    for place in range(len(files)):
        (folder / "policies" / f"tiny-{place}").mkdir(parents=True)
        for office in OFFICES:
            policy = _toml(folder / "mlp" / "policies" / "tiny" / f"{office}.toml")
            policy["dataset"] = datasets[office]
            policy["allow"]["releases"] = ["update", "sums"]
            (folder / "policies" / f"tiny-{place}" / f"{office}.toml").write_text(
                tomli_w.dumps(policy), encoding="utf-8"
            )
    return files


def _survival(folder: Path) -> str:
    """Write the scenario `survival` for two offices with few patients."""
    kinds.write(folder, "mlp", lambda _: None, participants=2, private=False)
    data = load_scenario("survival").model_dump(mode="json", by_alias=True, exclude_none=True)
    data["contract"]["rounds"] = 2
    data["expect"] = {}
    for key in ("chosen",):
        data.pop(key, None)
    data["roster"] = [
        {**data["roster"][0], "name": office, "units": 40, "epsilon": float("inf"), "dataset": "rows"}
        for office in OFFICES
    ]
    for number, office in enumerate(OFFICES):
        file = folder / "policies" / "tiny" / f"{office}.toml"
        policy = _toml(file)
        policy["dataset"]["rows"] = {
            "industry": "survival",
            "source": f"synthetic:120?seed={number}",
            "site": data["roster"][0]["site"],
            "unit": "patient",
            "declared_units": 40,
            "max_rows_per_unit": 6,
        }
        file.write_text(tomli_w.dumps(policy), encoding="utf-8")
    path = folder / "tiny.toml"
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    return str(path)


def _toml(path: Path) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(path.read_text(encoding="utf-8"))


def _model(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "model").glob("*.safetensors")
    return safetensors.torch.load(file.read_bytes())


def test_every_kind_gives_the_embedded_engines_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSORTIA_HOME", str(tmp_path / "homes"))
    monkeypatch.setattr(server_app, "Coordinator", Unmeasured)
    _install(tmp_path / "packages", monkeypatch)
    files = _written(tmp_path / "scenarios")
    for office in OFFICES:
        Home(tmp_path / "homes" / office, office).create(split_seed=0)  # a simulation's split key: the same rows train
    init("", scenario=next(iter(files.values())))
    jobs, wanted = {}, {}
    for kind, file in files.items():
        for office in OFFICES:
            allow([office, file])
        jobs[kind] = prepare(Options(scenario=file, engine="flower", out=tmp_path / "deployed"))
        options = Options(scenario=file, out=tmp_path / "simulated")
        wanted[kind] = _model(execute(prepare(options), options).job.folder)
    with SeriesFederation(list(jobs.values()), [None] * len(jobs)) as federation:
        federation.start()
        federation.submit()
        federation.job = list(jobs.values())[-1]
        federation.wait()
    for kind, model in wanted.items():
        got = _model(jobs[kind].folder)
        assert got.keys() == model.keys(), kind
        assert all(torch.equal(tensor, model[name]) for name, tensor in got.items()), kind
        record = json.loads((jobs[kind].folder / "coordinator.json").read_text(encoding="utf-8"))
        assert [line["replies"] for line in record["history"]] == [list(OFFICES)] * 2, kind
