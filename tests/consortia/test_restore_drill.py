"""Homes and coordinator lost with their volumes in the middle of a run, and put back as docs/how_to/backup.md says."""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from federation import Federation, docker

from privacy.ledger import Ledger

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
faults, fault_containers = (importlib.import_module(name) for name in ("faults", "fault_containers"))

pytestmark = pytest.mark.containers

A, B = fault_containers.NAMES
ROUNDS, EPSILON = 3, 1.0
COORDINATOR = ("runs", "pki", "members")


@pytest.fixture
def drill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two participants with a budget, as containers; a backup of one that is older than all charges."""
    if reason := fault_containers.why_not():
        pytest.skip(reason)
    monkeypatch.setenv("CONSORTIA_PASSPHRASE", "correct horse battery staple")
    terms = {"rounds": ROUNDS, "quorum": 1.0, "deadline_seconds": 120.0, "attempts": 2, "epsilon": EPSILON}
    with faults.world(tmp_path, (A, B), **terms) as made, fault_containers.deployed(tmp_path, made) as federation:
        yield federation


def _home(federation: Federation, *words: str) -> None:
    command = [sys.executable, "-P", "-m", "consortia.cli", "home", *words, "--home", str(federation.own / "homes")]
    done = subprocess.run(command, cwd=federation.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _account(federation: Federation, name: str) -> dict[str, Any]:
    with Ledger.open(federation.own / "homes" / name / "ledger.db", name) as ledger:
        ledger.verify()
        exported: dict[str, Any] = ledger.export()
    return exported


def _tar(federation: Federation, *words: str) -> None:
    subprocess.run(["tar", "--directory", str(federation.own), *words], check=True)


def _lose(federation: Federation) -> None:
    """Delete containers, networks, volumes and every folder of participants and coordinator."""
    assert federation.down().returncode == 0
    label = f"label=com.docker.compose.project={federation.env['COMPOSE_PROJECT_NAME']}"
    assert docker("volume", "ls", "--quiet", "--filter", label).stdout == ""
    for folder in ("homes", *COORDINATOR):
        shutil.rmtree(federation.own / folder)


def test_lost_homes_and_coordinator_come_back_and_the_run_goes_on(drill: Federation) -> None:
    own = drill.own
    _home(drill, "backup", B, "--to", str(own / "early.backup"))
    killed = fault_containers.up(drill, {1: ("superexec", fault_containers.kill("superexec"))})
    assert killed.status == 1, killed.said
    run = killed.folder
    done = len(faults.rounds_done(run))
    assert 1 <= done < ROUNDS
    for name in (A, B):
        _home(drill, "backup", name, "--to", str(own / f"{name}.backup"))
    _tar(drill, "--create", "--file", str(own / "coordinator.tar"), *COORDINATOR)
    before = {name: _account(drill, name) for name in (A, B)}
    assert all(len(account["entries"]) >= done for account in before.values())

    _lose(drill)
    (own / "homes").mkdir()
    _tar(drill, "--extract", "--same-owner", "--file", str(own / "coordinator.tar"))

    # A home that is put back from too old a backup would forget what was charged: the coordinator's heads refuse it.
    _home(drill, "restore", A, "--from", str(own / f"{A}.backup"), "--nothing-left-since")
    _home(drill, "restore", B, "--from", str(own / "early.backup"), "--nothing-left-since")
    refused = fault_containers.up(drill, {}, run)
    assert refused.status != 0
    assert "LEDGER_BEHIND" in refused.said, refused.said[-2000:]
    assert _account(drill, B)["entries"] == []

    # The newest backup is right to the last event, and the run goes on.
    assert drill.compose("stop", f"{B}-app", "--timeout", "3").returncode == 0
    shutil.rmtree(own / "homes" / B)
    _home(drill, "restore", B, "--from", str(own / f"{B}.backup"), "--nothing-left-since")
    gone_on = fault_containers.up(drill, {}, run)
    assert gone_on.status == 0, gone_on.said[-3000:]
    record = json.loads((run / "result.json").read_text())
    assert (record["status"], record["rounds"]) == ("completed", ROUNDS)
    for name in (A, B):
        after, known = _account(drill, name)["entries"], before[name]["entries"]
        assert after[: len(known)] == known  # to the last event
        committed, abandoned = faults.account(own / "homes" / name, name)
        assert committed == ROUNDS
        assert committed + abandoned == len(after)
        with Ledger.open(own / "homes" / name / "ledger.db", name) as ledger:
            notes = [note for _, note in ledger.notes() if note["what"] == "restored"]
            assert len(notes) == 1
            spent = ledger.spent("line", 1e-5)
        assert math.isclose(spent, record["participants"][name]["epsilon"]["run"], rel_tol=1e-6) or abandoned
        assert spent <= EPSILON * (1 + abandoned)
    assert os.stat(own / "homes" / A).st_uid != 0  # the containers' user has it again
