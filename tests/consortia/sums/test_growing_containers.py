"""A run that grows by `CONSORTIA_TOP_UP=RUN make up`, as docs/how_to/grow.md says it for containers."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from federation import Federation
from growing import NAMES, Banks, customers

from consortia.common.strict import read_toml
from consortia.terms.scenario import load_scenario
from privacy.ledger import Ledger

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))
faults, fault_containers = (importlib.import_module(name) for name in ("faults", "fault_containers"))

pytestmark = pytest.mark.containers


def _arrive(federation: Federation, name: str, last: int) -> None:
    """Let the bank's file hold its first `last` customers."""
    file = federation.own / "data" / name / "credit.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    customers(name, 0, last).to_csv(file, index=False)


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """Two banks of 150 customers whose owners have allowed the first contract."""
    if reason := fault_containers.why_not():
        pytest.skip(reason)
    banks = Banks(tmp_path)
    (tmp_path / "policies").mkdir()
    contract = load_scenario(str(banks.scenario)).contract.sha256()
    for name in NAMES:
        home = banks.home(name)
        policy = read_toml(home.policy)
        policy["demo"] = False
        policy["dataset"]["credit"]["source"] = "csv:/data/credit.csv"
        policy["allow"]["contracts"] = [f"sha256:{contract}"]
        home.policy.write_text(tomli_w.dumps(policy), encoding="utf-8")
    world = faults.World(tmp_path, banks.scenario, NAMES)
    with fault_containers.deployed(tmp_path, world) as made:
        for name in NAMES:
            _arrive(made, name, 150)
        yield made


def _entries(federation: Federation, name: str) -> int:
    with Ledger.open(federation.own / "homes" / name / "ledger.db", name) as ledger:
        ledger.verify()
        return len(ledger.entries())


def test_new_customers_are_added_to_a_run_in_containers(federation: Federation) -> None:
    done = federation.up()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (first,) = federation.records()
    before = {name: _entries(federation, name) for name in NAMES}
    for name in NAMES:
        _arrive(federation, name, 230)
    federation.env |= {"CONSORTIA_TOP_UP": first["run_id"], "CONSORTIA_UNITS": "80"}

    # Its contract is another one, which nobody has allowed yet: refused, and nobody pays.
    refused = federation.up()
    assert refused.returncode == 2, refused.stdout[-3000:] + refused.stderr[-3000:]
    assert "CONTRACT_NOT_ALLOWED" in refused.stdout + refused.stderr
    assert {name: _entries(federation, name) for name in NAMES} == before

    (further,) = {file.parent for file in (federation.own / "runs").glob("*/releases.json")}
    assert f"consortia budget allow NAME runs/{further.name}/scenario.json" in " ".join(refused.stdout.split())
    for name in NAMES:
        command = ["budget", "allow", name, str(further / "scenario.json"), "--home", str(federation.own / "homes")]
        allowed = subprocess.run(
            [sys.executable, "-P", "-m", "consortia.cli", *command], capture_output=True, text=True, check=False
        )
        assert allowed.returncode == 0, allowed.stdout + allowed.stderr
        shutil.chown(federation.own / "homes" / name / "policy.toml", 49999, 49999)
        assert federation.compose("restart", f"{name}-app").returncode == 0

    again = federation.up()
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    record = federation.records()[-1]
    assert record["status"] == "completed"
    assert [line["run_id"] for line in record["releases"]] == [first["run_id"]]
    for name in NAMES:
        assert _entries(federation, name) > before[name]
        home = federation.own / "homes" / name / "runs" / record["run_id"]
        receipt = json.loads((home / "receipt.json").read_text())
        assert receipt["epsilon"]["lifetime"] == pytest.approx(3.0, abs=1e-3)  # what an old customer paid does not move
