"""A finished run's folder, written by hand: what the coordinator has, with texts that a participant planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from consortia.common import environment
from consortia.coordinator.event_file import EventFile
from consortia.terms.scenario import load_scenario

PLANTED = "Ada <b>Lovelace</b> 4711471147"
_STANDING = {
    "state": "ACTIVE",
    "noise_multiplier": 4.125,
    "epsilon_budget": 3.5,
    "delta": 1e-5,
    "unit": "record",
    "non_private": False,
    "bytes": {"sent": 7123, "received": 15321},
}


def write_run(root: Path, rounds: int = 3) -> Path:
    """Write scenario and events of a run of `banks-network` in which used-car answers and other fails."""
    folder = root / "banks-1"
    folder.mkdir()
    (folder / "scenario.json").write_text(load_scenario("banks-network").to_json())
    event = EventFile(folder, folder.name)
    event("start", rounds=rounds, done=0)
    for number in range(1, rounds + 1):
        event("asked", round=number, participant="used-car", kind="train", bytes=1500)
        event("heard", round=number, participant="used-car", kind="train", bytes=700)
        event("failure", round=number, participant="other", attempt=1, code="BAD_REPLY", detail=f"the row of {PLANTED}")
        released = {"used-car": {"exact": False, "estimates": {"auc": {"value": 0.7, "low": 0.6, "high": 0.8}}}}
        members = {"used-car": _STANDING}
        event("round", round=number, seconds=0.25, replies=["used-car"], released=released, members=members)
    return folder


def write_result(folder: Path, *, simulation: bool = False) -> None:
    """Write `result.json` as the coordinator of a deployed run or the operator of a simulation has it."""
    scenario = load_scenario("banks-network")
    participants = {
        participant.name: _participant(participant.name == "used-car", simulation) for participant in scenario.roster
    }
    result = {
        "schema": 1,
        "run_id": folder.name,
        "scenario": "banks-network",
        "contract_sha256": scenario.contract.sha256(),
        "engine": "embedded" if simulation else "flower",
        "observer": "simulation" if simulation else "coordinator",
        "charged": not simulation,
        "synthetic": True if simulation else None,
        "noise": "operating system entropy",
        "status": "completed",
        "reason": "",
        "rounds": 3,
        "seconds": 12.34,
        "participants": participants,
        "history": [],
        "environment": environment.describe(),
        "files": environment.hashes(folder),
    }
    (folder / "result.json").write_text(json.dumps(result))
    if simulation:
        home = folder / "participants" / "used-car" / "runs" / folder.name
        home.mkdir(parents=True)
        (home / "receipt.json").write_text(json.dumps(_receipt()))
        lines = [json.dumps({"round": n, "metric": "auc", "value": 0.5 + n / 16}) for n in (1, 2, 3)]
        (home / "progress.jsonl").write_text("\n".join(lines) + "\n")


def _participant(answers: bool, simulation: bool) -> dict[str, Any]:
    account = {
        "run": 2.7182 if answers else None,
        "lifetime": 3.1415 if answers and simulation else None,
        "budget": 3.5,
        "delta": 1e-5,
        "lifetime_delta": 4e-5 if answers and simulation else None,
        "unit": "record" if answers else None,
        "non_private": False if answers else None,
        "metrics_non_private": False,
        "metrics": {"run": None, "budget": 0.75, "delta": 2e-6, "unit": "record"} if answers else None,
    }
    auc = {"federated": 0.6543, "released": True, "release": "dp", "released_value": 0.6543, "interval": [0.55, 0.77]}
    return {
        "industry": "bank",
        "rows": 103 if answers and simulation else None,
        "state": "ACTIVE",
        "metrics": {"auc": auc} if answers else {},
        "epsilon": account,
        "noise_multiplier": 4.125 if answers else None,
        "rounds_contributed": 3 if answers else 0,
        "bytes": {"sent": 7123, "received": 15321},
        "seconds": {"train": 1.75 if simulation else None, "evaluate": None},
        "failures": [] if answers else [{"round": 1, "code": "BAD_REPLY", "detail": PLANTED}] * 3,
    }


def _receipt() -> dict[str, Any]:
    return {
        "schema": 1,
        "participant": "used-car",
        "headline": "auc",
        "units": {"train": 62, "validation": 4, "test": 37},
        "metrics": {"auc": {"majority": 0.5, "local": 0.6111, "federated": 0.6543, "personal": 0.6789}},
        "gain": {"value": 0.0432, "low": -0.0123, "high": 0.0987},
        "keeps": "centred",
        "epsilon": {"relation": "add_or_remove_one"},
    }
