"""Records that look the same on every day and machine: a finished, a failed and a resumed run, and a home whose
budget is used up. For pictures of pages; their numbers were made up."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import tomli_w

from consortia.common.strict import read_toml
from consortia.engines.demonstration import demo_policy_file
from consortia.participant.home import Home
from consortia.terms.scenario import load_scenario
from privacy.accounting import solve_noise_multiplier
from privacy.ledger import Budget, Ledger, RunPlan

ROUNDS, START = 20, 1_700_000_000.0
#: Ids of the runs, as runs have them: they say nothing of how it went.
IDS = {name: f"banks-network-20231114T2213{place}0" for place, name in enumerate(("finished", "failed", "resumed"))}
#: (alone, control, federated, net gain and its interval)
_GAINS = (
    (0.71, 0.72, 0.74, (0.041, 0.012, 0.071)),
    (0.69, 0.70, 0.72, (0.030, 0.003, 0.058)),
    (0.74, 0.74, 0.73, (0.012, -0.014, 0.039)),
    (0.77, 0.78, 0.75, (-0.006, -0.031, 0.020)),
    (0.73, 0.74, 0.69, (-0.024, -0.046, -0.003)),
)


@cache
def _sigma(rounds: int, rate: float | None = None) -> float:
    """Return the noise that spends the run budget of 3, as a participant solves it."""
    terms = load_scenario("banks-network").contract.industries["bank"]
    rate, steps = rate or terms.sampling_rate, 5 if rate else terms.local_steps
    return solve_noise_multiplier(epsilon=3.0, delta=1e-5, sampling_rate=rate, steps=rounds * steps)


def _names() -> list[str]:
    return [participant.name for participant in load_scenario("banks-network").roster]


def _standing(rounds: int, *, refused: bool = False) -> dict[str, Any]:
    return {
        "state": "REFUSED" if refused else "ACTIVE",
        "noise_multiplier": None if refused else _sigma(ROUNDS),
        "epsilon_budget": 3.0,
        "delta": 1e-5,
        "unit": "record",
        "non_private": None if refused else False,
        "bytes": {"sent": 6100 * rounds, "received": 9800 * rounds},
    }


def _events(rounds: int, *, refused: Sequence[str] = (), again_after: int = 0, status: str = "completed") -> str:
    """Return an event file; the run begins again after `again_after` rounds."""
    lines: list[dict[str, Any]] = [{"event": "start", "rounds": ROUNDS, "done": 0}]
    names = [name for name in _names() if name not in refused]
    members: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        about = {"round": number, "kind": "train"}
        lines += [{"event": "asked", "participant": name, "bytes": 9800, **about} for name in _names()]
        lines += [{"event": "heard", "participant": name, "bytes": 6100, **about} for name in names]
        for name in refused:
            code = {"attempt": 1, "code": "CONTRACT_NOT_ALLOWED", "detail": ""}
            lines.append({"event": "failure", "round": number, "participant": name, **code})
        members = {name: _standing(number, refused=name in refused) for name in _names()}
        seconds = 3.0 if number == 1 else 0.6 + 0.05 * (number % 3)
        lines.append({"event": "round", "round": number, "seconds": seconds, "replies": names, "members": members})
        if number == again_after:
            lines.append({"event": "start", "rounds": ROUNDS, "done": number})
    lines.append({"event": "end", "status": status, "reason": "", "members": members})
    texts = [{"time": START + index, "round": None, "participant": None, **line} for index, line in enumerate(lines)]
    return "".join(json.dumps(text) + "\n" for text in texts)


def _account(**changes: Any) -> dict[str, Any]:
    account = {
        "run": 2.9996,
        "budget": 3.0,
        "delta": 1e-5,
        "unit": "record",
        "non_private": False,
        "runs_left": 3,
        "lifetime": 2.74,
        "lifetime_delta": 4e-5,
        "metrics": None,
        "metrics_non_private": False,
        "relation": "add_or_remove_one",
        "lifetime_budget": 12.0,
    }
    return {**account, **changes}


def receipt(place: int, **changes: Any) -> dict[str, Any]:
    """Return a receipt; `changes` of its account."""
    alone, control, federated, (value, low, high) = _GAINS[place]
    gain = {"value": value, "low": low, "high": high}
    compared = {"local": alone, "control": control, "federated": federated, "joined": control + value}
    return {
        "headline": "auc",
        "metrics": {"auc": compared},
        "net_gain": gain,
        "net_gains": {"auc": gain},
        "gain": gain,
        "units": {"train": 140, "validation": 28, "test": 32},
        "rows": 200,
        "synthetic": True,
        "epsilon": _account(**changes),
        "quarantine": {"rows_read": 200, "rows_kept": 200, "reasons": {}},
    }


def _record(folder: Path, status: str, lines: dict[str, Any], rounds: int = ROUNDS) -> None:
    record = {
        "schema": 1,
        "run_id": folder.name,
        "scenario": "banks-network",
        "engine": "embedded",
        "status": status,
        "contract_sha256": load_scenario("banks-network").contract.sha256(),
        "observer": "simulation",
        "charged": True,
        "synthetic": True,
        "noise": "operating system entropy",
        "reason": "",
        "rounds": rounds,
        "seconds": 14.2,
        "participants": lines,
        "history": [],
        "environment": {"python": "3.11.7"},
        "files": {},
    }
    (folder / "result.json").write_text(json.dumps(record))


def _line(place: int) -> dict[str, Any]:
    return {
        "industry": "bank",
        "state": "ACTIVE",
        "noise_multiplier": _sigma(ROUNDS),
        "rounds_contributed": ROUNDS,
        "bytes": {"sent": 122_000, "received": 196_000},
        "seconds": {"train": 4.2, "evaluate": 0.9},
        "failures": [],
        **receipt(place),
    }


def write_runs(root: Path) -> None:
    """Write a finished, a failed and a resumed run, in folders of their `IDS`."""
    names = _names()
    refused = names[:4]
    for name, events in (
        ("finished", _events(ROUNDS)),
        ("failed", _events(1, refused=refused, status="failed")),
        ("resumed", _events(ROUNDS, again_after=6)),
    ):
        folder = root / IDS[name]
        folder.mkdir(parents=True)
        (folder / "scenario.json").write_text(load_scenario("banks-network").to_json())
        (folder / "events.jsonl").write_text(events)
    lines = {name: _line(place) for place, name in enumerate(names)}
    for name in (IDS["finished"], IDS["resumed"]):
        _record(root / name, "completed", lines)
        for who, place in zip(names, range(len(names)), strict=True):
            home = root / name / "participants" / who / "runs" / name
            home.mkdir(parents=True)
            (home / "receipt.json").write_text(
                json.dumps({"schema": 1, "participant": who, "run_id": name, **receipt(place)})
            )
    nothing = _account(run=None, lifetime=None, runs_left=None, non_private=None, unit=None, lifetime_delta=None)
    failures = [{"round": 1, "code": "CONTRACT_NOT_ALLOWED", "detail": ""}]
    _record(
        root / IDS["failed"],
        "failed",
        {
            name: {**_line(0), "metrics": {}, "net_gain": None, "gain": None, "units": None, "rows": None}
            | {"epsilon": nothing, "failures": failures if name in refused else []}
            for name in names
        },
        rounds=1,
    )


def write_home(root: Path) -> Path:
    """Write a home of a participant of `banks-network` whose four runs used its lifetime up."""
    name = _names()[0]
    home = Home(root / name, name)
    home.create(split_seed=1)
    policy = read_toml(demo_policy_file("banks-network", name))
    home.policy.write_text(tomli_w.dumps(policy))
    life = Budget(12.0, 4e-5)
    with Ledger.create(home.ledger, name) as ledger:
        for number in range(4):
            plan = RunPlan(
                run_id=f"banks-{number + 1}",
                dataset="credit",
                contract_sha256="c" * 64,
                unit="record",
                declared_units=200,
                allowance=Budget(3.0, 1e-5),
                noise_multiplier=_sigma(3, 0.1),
                clip=1.0,
                sampling_rate=0.1,
                steps_per_round=5,
                rounds=3,
                non_private=False,
            )  # type: ignore[arg-type]
            ledger.open_run(plan, life)
            for round_number in range(1, 4):
                held = ledger.reserve(
                    plan.run_id, round_number, f"{number}-{round_number}", plan.round_events(), lifetime=life
                )
                ledger.commit(held, b"reply")
            folder = home.run_folder(plan.run_id)
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / "receipt.json"
            file.write_text(json.dumps(receipt(number, runs_left=3 - number, lifetime=2.7 * (number + 1))))
            os.utime(folder, (START + number, START + number))
    return home.folder
