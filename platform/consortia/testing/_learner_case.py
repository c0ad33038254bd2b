"""A learner under test: contracts that name it, participants with homes and ledgers of their own, and whole runs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import safetensors.torch
import tomli_w
from torch import Tensor

from clients import registry
from clients.industry import IndustryClient
from clients.schema import Schema
from consortia.audit.probe import Bench
from consortia.audit.settings import Audit
from consortia.coordinator.rounds import Coordinator
from consortia.learners.blocks.clipped import ClippedRecipe
from consortia.learners.blocks.shares import OWN_KIND
from consortia.learners.own import Learner, Unit
from consortia.messages.exchange import Answer
from consortia.participant.handle import handle
from consortia.participant.home import Home
from consortia.participant.identity import pin_each_other
from consortia.terms import learners
from consortia.terms.contract import Contract
from consortia.terms.recipe import learned
from consortia.terms.scenario import Scenario, scenario_from_toml
from consortia.terms.scopes import State
from privacy.ledger import Ledger

_numbers = itertools.count()
_UNITS: Final = 120
_DELTA: Final = 1e-4


@dataclass
class Case:
    """A learner, the industry whose rows it is tried on, and a folder that nobody else has."""

    learner: Learner
    industry: str
    folder: Path
    # Contracts are kept by their text, so no two learners under test may share a name.
    name: str = field(default_factory=lambda: f"under-test-{os.getpid()}-{next(_numbers)}")

    @cached_property
    def client(self) -> IndustryClient:
        """The industry."""
        return registry.get(self.industry)

    @property
    def schema(self) -> Schema:
        """Of its rows."""
        return self.client.schema

    @cached_property
    def rule(self) -> ClippedRecipe:
        """The recipe as the platform plays it."""
        return learners.own_terms(self.name, learners.written(self.learner)).recipe(self.schema)

    @property
    def messages(self) -> range:
        """Numbers of its messages."""
        return range(1, self.rule.shares.messages + 1)

    @cached_property
    def units(self) -> list[Unit]:
        """Units of synthetic rows, of one row and of several."""
        table = self.audit.pool(self.scenario().roster[0]).table
        features, target = table.inputs["features"].double().numpy(), table.target.double().numpy()
        cuts = [*range(24), *range(24, 60, 4)]
        return [
            Unit(features[start:stop].copy(), target[start:stop].copy()) for start, stop in itertools.pairwise(cuts)
        ]

    @cached_property
    def audit(self) -> Audit:
        """An audit of a contract that names the learner: its rows, its homes, its games."""
        return Audit(self.scenario(), self.folder / "audit", quick=True, random=np.random.default_rng(0))

    def scenario(self, trust: str = "local", epsilon: float | str = 2.0) -> Scenario:
        """Return a scenario of three participants that train by the learner."""
        contract: dict[str, Any] = {"schema": 1, "wire": 1, "mode": "horizontal", "learner": self.name, "trust": trust}
        contract |= {"options": learners.written(self.learner), "industries": {self.industry: {}}}
        if trust == "aggregate":
            contract["secure"] = {"colluders": 1, "min_cohort": 3}
        terms = {"industry": self.industry, "dataset": "rows", "site": self.client.sites[0], "units": _UNITS}
        roster = [{"name": f"p-{number}", **terms, "epsilon": epsilon, "delta": _DELTA} for number in range(3)]
        data = {"schema": 1, "name": self.name, "title": "Under test", "contract": contract, "roster": roster}
        return scenario_from_toml(tomli_w.dumps(data))

    def model(self) -> State:
        """Return the model before message 1."""
        return dict(learned(self.contract, self.industry).build(self.schema.target).state_dict())

    @property
    def contract(self) -> Contract:
        """A contract that names the learner."""
        return self.audit.contract

    def bench(self, **changes: Any) -> Bench:
        """Return a participant with a ledger of its own."""
        return self.audit.bench(self.audit.scenario.roster[0], delta=_DELTA, **changes)

    def rows(self, count: int = 30) -> Path:
        """Return a file of rows of the training part."""
        pool = self.audit.pool(self.audit.scenario.roster[0])
        return pool.write(pool.frame.iloc[[*pool.of("train")[:count].tolist(), *pool.of("test")[:4].tolist()]])

    def run(self, trust: str, epsilon: float | str) -> Ran:
        """Play a whole run of three participants, without receipts."""
        folder = self.folder / f"run-{next(_numbers)}"
        scenario = self.scenario(trust, epsilon)
        homes = {participant.name: self._home(folder, participant.name) for participant in scenario.roster}
        if trust == "aggregate":
            pin_each_other(homes)

        def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> Sequence[Answer]:
            del deadline
            if kind == "evaluate":  # a receipt at home says nothing about a learner
                return [Answer(name, None, "NO_REPLY") for name in envelopes]
            return [Answer(name, handle(data, homes[name]), "") for name, data in envelopes.items()]

        result = Coordinator(scenario, "run", folder, exchange).run()
        file = folder / "model" / f"{self.industry}.safetensors"
        return Ran(result, safetensors.torch.load(file.read_bytes()) if file.is_file() else {}, scenario, homes)

    def _home(self, folder: Path, name: str) -> Home:
        home = Home(folder / "homes" / name, name, simulation=True)
        home.create(split_seed=1)
        rows = {"industry": self.industry, "source": f"synthetic:{_UNITS}", "declared_units": _UNITS}
        rows["site"] = self.client.sites[0]
        budget = {"epsilon": 2.0, "delta": _DELTA}
        policy = {
            "schema": 1,
            "participant": name,
            "demo": True,
            "dataset": {"rows": rows},
            "budget": {"run": budget, "lifetime": budget},
            "allow": {"releases": [OWN_KIND], "contracts": "any", "non_private": True},
        }
        home.policy.write_text(tomli_w.dumps(policy), encoding="utf-8")
        Ledger.create(home.ledger, name).close()
        return home


@dataclass(frozen=True)
class Ran:
    """A run that ended."""

    result: dict[str, Any]
    model: Mapping[str, Tensor]
    scenario: Scenario
    homes: Mapping[str, Home]

    def entries(self, name: str) -> list[Any]:
        """Return what a participant's ledger has of it."""
        with Ledger.open(self.homes[name].ledger, name) as ledger:
            return list(ledger.entries("run"))
