"""A vertical federation in one process without Flower, whose every message is kept as the coordinator saw it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from consortia.common.strict import parse
from consortia.engines.demonstration import demo_policy_file
from consortia.messages.exchange import Answer
from consortia.participant.home import Home
from consortia.terms.scenario import Scenario, load_scenario
from consortia.vertical.coordinator import VerticalCoordinator
from consortia.vertical.handle import handle
from consortia.vertical.setup import introduce
from privacy.ledger import Ledger

Change = Callable[[dict[str, Any]], None]


@dataclass
class Shared:
    """Three participants with their homes."""

    folder: Path
    scenario: Scenario
    homes: dict[str, Home]
    #: (step, participant, message, reply)
    seen: list[tuple[str, str, bytes, bytes]] = field(default_factory=list)
    #: Participants that do not answer a step.
    silent: set[tuple[str, str]] = field(default_factory=set)
    #: Changes an answer on its way.
    tamper: Callable[[str, str, bytes], bytes] | None = None

    def exchange(self, kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        """Deliver messages as the engines do."""
        del deadline
        answers = []
        for name, data in envelopes.items():
            if (kind, name) in self.silent:
                continue
            reply = handle(data, self.homes[name])
            if self.tamper is not None:
                reply = self.tamper(kind, name, reply)
            self.seen.append((kind, name, data, reply))
            answers.append(Answer(name, reply))
        return answers

    def run(self, run_id: str = "run-1", **how: Any) -> dict[str, Any]:
        """Play a run; the coordinator's record."""
        return VerticalCoordinator(self.scenario, run_id, self.folder / run_id, self.exchange).run(**how)

    def policy(self, name: str, change: Change) -> None:
        """Edit a policy, as its owner would."""
        home = self.homes[name]
        data = tomllib.loads(home.policy.read_text(encoding="utf-8"))
        change(data)
        home.policy.write_text(tomli_w.dumps(data), encoding="utf-8")

    def contract(self, **vertical: Any) -> None:
        """Change the vertical terms: another contract."""
        data = self.scenario.model_dump(mode="python", by_alias=True)
        data["contract"]["vertical"] |= vertical
        self.scenario = parse(Scenario, data, "test")

    def codes(self, record: dict[str, Any], name: str) -> str:
        """Return the last failure's code of a participant."""
        return str(record["participants"][name]["failures"][-1]["code"])


def make_shared(folder: Path, persons: int = 600, **vertical: Any) -> Shared:
    """Return participants of shared-customers with few rows and a quick model."""
    scenario = load_scenario("shared-customers")
    homes = {}
    for participant in scenario.roster:
        home = Home(folder / "participants" / participant.name, participant.name, simulation=True)
        home.create(split_seed=1)
        data = tomllib.loads(demo_policy_file("shared-customers", participant.name).read_text(encoding="utf-8"))
        data["dataset"]["customers"]["source"] = f"synthetic:{persons}"
        data["vertical"] |= {"models": ["logistic"]}
        if participant.name == "bank":
            data["vertical"]["new_persons"] = f"synthetic:{persons}"
        home.policy.write_text(tomli_w.dumps(data), encoding="utf-8")
        Ledger.create(home.ledger, participant.name).close()
        homes[participant.name] = home
    introduce(scenario, homes)
    made = Shared(folder, scenario, homes)
    made.contract(**{"batches": 0, **vertical})
    return made
