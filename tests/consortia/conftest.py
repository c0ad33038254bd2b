"""Shared pieces: a participant with its own folder, and messages as the coordinator makes them."""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from consortia.engines.demonstration import demo_policy_file
from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant.handle import handle
from consortia.participant.home import Home
from consortia.terms.scenario import Scenario, load_scenario
from consortia.terms.scopes import for_participant, initial_groups
from privacy.ledger import Ledger

torch.set_num_threads(1)


@dataclass
class Site:
    """One participant under test."""

    home: Home
    scenario: Scenario
    name: str

    def message(self, round_number: int = 1, kind: str = "train", **changes: str) -> bytes:
        """Return the coordinator's message; `changes` replaces header values."""
        participant = self.scenario.participant(self.name)
        proposal = {
            "dataset": participant.dataset,
            "epsilon": None if participant.non_private else participant.epsilon,
            "delta": participant.delta,
        }
        header = {
            "kind": kind,
            "participant": self.name,
            "industry": participant.industry,
            "run": "run-1",
            "round": str(round_number),
            "contract": self.scenario.contract.canonical(),
            "proposal": json.dumps(proposal),
        }
        groups = initial_groups(self.scenario.contract, [participant.industry])
        return encode(Envelope({**header, **changes}, for_participant(groups, participant.industry)))

    def ask(self, *args: Any, **kwargs: Any) -> Envelope:
        """Send a message and return the decoded reply."""
        return decode(handle(self.message(*args, **kwargs), self.home))

    def policy(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Edit the policy file, as its owner would."""
        data = tomllib.loads(self.home.policy.read_text(encoding="utf-8"))
        change(data)
        self.home.policy.write_text(tomli_w.dumps(data), encoding="utf-8")

    def ledger(self) -> Ledger:
        """Open the ledger to look at it."""
        return Ledger.open(self.home.ledger, self.name)


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[..., Site]:
    """Return a maker of participants with a simulation home."""

    def make(name: str = "bank-a", scenario: str = "cross-industry-network", **overrides: Any) -> Site:
        loaded = load_scenario(scenario).with_overrides(**overrides)
        home = Home(tmp_path / "participants" / name, name, simulation=True)
        home.create(split_seed=7)
        home.policy.write_text(demo_policy_file(scenario, name).read_text(encoding="utf-8"), encoding="utf-8")
        Ledger.create(home.ledger, name).close()
        return Site(home, loaded, name)

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A bank of the cross-industry-network scenario, five rounds."""
    return make_site(rounds=5)


@pytest.fixture
def quiet_participants() -> Iterator[None]:
    """Leave out the warnings of participants: a game asks them hundreds of times."""
    logger = logging.getLogger("consortia.participant")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)
