"""Finished runs of noisy sums in which each participant added noise of its own: made by the coordinator's own code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from noise_contexts import TEST

from consortia.common import environment
from consortia.coordinator import sums
from consortia.coordinator.checkpoint import Checkpoint, save
from consortia.coordinator.participant_view import ParticipantView
from consortia.learners.blocks.release import noised
from consortia.learners.blocks.rows import Rows
from consortia.learners.sums.model import CENTRE, RADIUS
from consortia.messages.blocks import in_state
from consortia.terms.costs import noise_multiplier
from consortia.terms.recipe import recipe
from consortia.terms.scenario import Scenario, load_scenario
from consortia.terms.scopes import State, initial_groups
from privacy.events import GaussianRelease

BANK = "bank"
RUN = "banks-1"


@cache
def banks() -> Scenario:
    """Return the scenario of five banks."""
    return load_scenario("banks")


NAMES = tuple(one.name for one in banks().roster)
LEAVER = "used-car"
STAY = tuple(name for name in NAMES if name != LEAVER)


def model_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the released model of a run."""
    return safetensors.torch.load((folder / "model" / f"{BANK}.safetensors").read_bytes())


@cache
def multiplier() -> float:
    """Return z of a bank of that scenario; all have one budget."""
    contract, one = banks().contract, banks().roster[0]
    return noise_multiplier(contract, contract.industries[BANK], one.epsilon, one.delta)


@cache
def rows_of(name: str, count: int = 60) -> Rows:
    """Return made-up rows of one bank, another population for each."""
    seed = sum(name.encode())
    drawn = np.random.default_rng(seed)
    width = recipe(banks().contract, BANK).columns.features
    binary = torch.tensor(recipe(banks().contract, BANK).columns.binary)
    features = torch.from_numpy(drawn.uniform(-1, 1, (count, width)) * (0.5 + seed % 7 / 14))
    features = torch.where(binary, (features > 0.6).double(), features)
    target = torch.from_numpy((drawn.random(count) < 0.2 + seed % 5 / 10).astype(np.float64))
    return Rows(features, target, torch.arange(count))


def played(
    scenario: Scenario, names: Sequence[str], *, noise: bool = True, under: State | None = None
) -> list[Checkpoint]:
    """Play both messages among the named ones; return the checkpoints.

    Parameters
    ----------
    under : State, optional
        A group whose centre and radius message 2 is made with, whatever message 1 said.
    """
    contract, rule = scenario.contract, recipe(scenario.contract, BANK)
    state, states = Checkpoint(0, initial_groups(contract, [BANK]), {}, {}, []), []
    views = {
        name: ParticipantView(scenario.participant(name), header={"noise_multiplier": repr(multiplier())})
        for name in names
    }
    assert contract.noisy_sums is not None
    for message in (1, 2):
        events = contract.noisy_sums.shares.events(message, multiplier(), "record")
        each = [event.noise_multiplier for event in events if isinstance(event, GaussianRelease)]

        def answers(sent: Mapping[str, State], message: int = message, each: list[float] = each) -> dict[str, State]:
            found = {}
            for name, model in sent.items():
                blocks = rule.exact(message, rows_of(name), model)
                blocks = noised(rule, message, blocks, each, TEST) if noise else blocks
                found[name] = in_state(rule, message, blocks)
            return found

        groups, memory, _, _ = sums.local_round(scenario, views, state, message, answers)
        if under is not None:
            groups[BANK] |= {name: under[name] for name in (CENTRE, RADIUS)}
        state = Checkpoint(message, groups, memory, {}, [{"round": message, "replies": sorted(names)}])
        states.append(state)
    return states


@cache
def everybody() -> list[Checkpoint]:
    """Return the checkpoints of one run of everybody, the same in every test."""
    return played(banks(), [one.name for one in banks().roster])


def finished(folder: Path, scenario: Scenario, states: Sequence[Checkpoint], **changes: Any) -> Path:
    """Write the coordinator's folder of a finished run, and return it."""
    folder.mkdir(parents=True)
    (folder / "scenario.json").write_text(scenario.to_json())
    (folder / "events.jsonl").write_text("")
    (folder / "coordinator.json").write_text("{}\n")
    for state in states:
        save(folder, state, final=state.groups if state is states[-1] else None)
    auc = {"federated": 0.7, "released": True, "release": "dp", "released_value": 0.7, "interval": [0.6, 0.8]}
    account = {
        "run": 3.0,
        "lifetime": None,
        "budget": 3.0,
        "delta": 1e-5,
        "lifetime_delta": None,
        "unit": "record",
        "non_private": False,
        "metrics_non_private": False,
        "metrics": None,
    }
    participants = {
        one.name: {
            "industry": BANK,
            "rows": None,
            "state": "ACTIVE",
            "metrics": {"auc": auc},
            "epsilon": account,
            "noise_multiplier": multiplier(),
            "rounds_contributed": 2,
            "bytes": {"sent": 1, "received": 1},
            "seconds": {"train": None, "evaluate": None},
            "failures": [],
            "net_gain": None,
        }
        for one in scenario.roster
    }
    record = {
        "schema": 1,
        "run_id": folder.name,
        "scenario": scenario.name,
        "engine": "flower",
        "charged": True,
        "contract_sha256": scenario.contract.sha256(),
        "observer": "coordinator",
        "synthetic": None,
        "reason": "",
        "noise": "operating system entropy",
        "status": "completed",
        "rounds": 2,
        "seconds": 1.0,
        "history": [],
        "participants": participants,
        "environment": {},
        "files": environment.hashes(folder),
        **changes,
    }
    (folder / "result.json").write_text(json.dumps(record))
    return folder
