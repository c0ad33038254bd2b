"""`--engine ray`: the embedded engine's model out of Ray's actors; refused with the extra's name without Ray."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import APP
from flwr.app import Message
from typer.testing import CliRunner

from consortia.coordinator.checkpoint import load_latest
from consortia.engines import ray
from consortia.engines.embedded import EmbeddedGrid
from consortia.messages.flower import pack
from consortia.terms.scopes import State


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.importlib.util, "find_spec", lambda _: None)
    result = CliRunner().invoke(APP, ["run", "linear", "--engine", "ray", "--out", str(tmp_path / "runs")])
    assert result.exit_code == 2
    assert "pip install 'consortia[ray]'" in result.output.replace("\n", " ")
    assert not (tmp_path / "runs").exists()


def test_an_actor_writes_into_the_log_of_whom_it_answers_for(tmp_path: Path) -> None:
    configs: dict[str, dict[str, str | bool]] = {
        name: {"participant": name, "home": str(tmp_path / name), "simulation": True} for name in ("one", "two")
    }
    for name in configs:
        (tmp_path / name).mkdir()
    grid = EmbeddedGrid(ray._participant(), configs)
    for node in (2, 3, 2):
        list(grid.send_and_receive([Message(pack(b"no envelope"), node, "train")]))
    grid.close()
    for name, lines in (("one", 2), ("two", 1)):
        log = (tmp_path / name / "participant.log").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line)["participant"] for line in log] == [name] * lines


def _run(out: Path, engine: str, epsilon: str) -> tuple[dict[str, Any], dict[str, State]]:
    """Run in a process of its own: what Ray leaves in its caller is no other test's."""
    command = ["run", "linear", "--rounds", "2", "--epsilon", epsilon, "--engine", engine, "--out", str(out), "--json"]
    # Two rounds miss the line, which is status 1.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "consortia.cli", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    (folder,) = out.iterdir()
    state = load_latest(folder)
    assert state is not None
    return json.loads(done.stdout), state.groups


@pytest.mark.end_to_end
@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'consortia[ray]'"
)
def test_actors_give_the_embedded_engines_model_and_charge_each_ledger(tmp_path: Path) -> None:
    embedded, one = _run(tmp_path / "embedded", "embedded", "inf")
    actors, other = _run(tmp_path / "ray", "ray", "inf")
    assert actors["engine"] == "ray"
    assert one.keys() == other.keys()
    assert all(torch.equal(one[group][name], other[group][name]) for group in one for name in one[group])
    for name, participant in embedded["participants"].items():
        assert actors["participants"][name]["metrics"] == participant["metrics"]
    private, _ = _run(tmp_path / "private", "ray", "1")
    for participant in private["participants"].values():
        assert (participant["state"], participant["rounds_contributed"]) == ("ACTIVE", 2)
        assert 0.9 < participant["epsilon"]["run"] <= 1.0
