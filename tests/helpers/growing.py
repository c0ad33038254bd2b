"""A consortium of banks whose customers arrive month by month, on ledgers that outlive a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
from numpy.typing import NDArray

from clients.bank import synthesise
from consortia.engines.options import Options
from consortia.engines.runner import Outcome, execute, prepare
from consortia.learners.sums.model import CENTRE, RADIUS, frozen
from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant.handle import handle
from consortia.participant.home import Home
from consortia.terms.contract import contract_from_json
from consortia.terms.growing import start_of
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import for_participant, initial_groups
from privacy.ledger import Ledger
from privacy.observation import observing

Array = NDArray[np.float64]
BANK = "bank"
NAMES = ("new-car", "used-car")


def customers(name: str, first: int, last: int) -> pd.DataFrame:
    """Return the rows of customers `first` to `last` of a bank; a customer's row does not depend on the others."""
    frame = synthesise(np.random.default_rng(sum(name.encode())), 400, name)
    frame["customer_id"] = [f"{name}-{number}" for number in range(len(frame))]
    return frame.iloc[first:last]


@dataclass
class Banks:
    """Scenario, homes and files of the banks.

    Attributes
    ----------
    sums : terms of `[contract.sums]`, as a scenario writes them.
    steps : what a contract of steps says instead (`rounds`, `keeps_updates`, ...); None for noisy sums.
    terms : of every policy's data set, in place of the defaults.
    """

    folder: Path
    epsilon: float = 3.0
    sums: dict[str, Any] = field(default_factory=lambda: {"grows": True})
    terms: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = NAMES
    steps: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        base = "banks" if self.steps is None else "banks-network"
        data = load_scenario(base).model_dump(mode="json", by_alias=True, exclude_none=True)
        data["name"] = "growing-banks"
        data["roster"] = [{**one, "epsilon": self.epsilon} for one in data["roster"] if one["name"] in self.names]
        if self.steps is None:
            data["contract"]["sums"] |= self.sums
        else:
            data["contract"] |= {"rounds": 2, "steps": {"grows": True}, **self.steps}
            data["contract"]["industries"][BANK]["local_steps"] = 1
        self.scenario = self.folder / "growing-banks.toml"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.scenario.write_text(tomli_w.dumps(data), encoding="utf-8")
        for name in self.names:
            self.arrive(name, 0, 150)
            self.policy(name)
            home = self.home(name)
            home.create(split_seed=1)
            Ledger.create(home.ledger, name).close()

    @property
    def homes(self) -> Path:
        """The folder of the homes."""
        return self.folder / "homes"

    def home(self, name: str) -> Home:
        """Return a bank's home, as a run on these ledgers has it."""
        return Home(self.homes / name, name, simulation=True)

    def arrive(self, name: str, first: int, last: int) -> None:
        """Let the bank's file hold these customers, and no others."""
        file = self.folder / f"{name}.csv"
        customers(name, first, last).to_csv(file, index=False)

    def policy(self, name: str, **terms: Any) -> None:
        """Write the bank's policy."""
        data = {
            "schema": 1,
            "participant": name,
            "demo": True,
            "dataset": {
                "credit": {
                    "industry": "bank",
                    "source": f"csv:{self.folder / name}.csv",
                    "site": name,
                    "unit": "customer_id",
                    "declared_units": 150,
                    "arrivals_by_themselves": True,
                    **self.terms,
                    **terms,
                }
            },
            "budget": {
                "run": {"epsilon": min(self.epsilon, 3.0), "delta": 1e-5},
                "lifetime": {"epsilon": min(self.epsilon, 3.0), "delta": 1e-5},
            },
            "noise": "secure",
            "allow": {
                "releases": ["sums" if self.steps is None else "update", "metrics"],
                "contracts": "any",
                "non_private": np.isinf(self.epsilon).item(),
            },
        }
        home = self.homes / name
        home.mkdir(parents=True, exist_ok=True)
        (home / "policy.toml").write_text(tomli_w.dumps(data), encoding="utf-8")

    def begin(self, **options: Any) -> Outcome:
        """Make the first release."""
        return self._run(Options(scenario=str(self.scenario), ledger=self.homes, out=self.folder / "runs", **options))

    def top_up(self, before: Outcome | Path, **options: Any) -> Outcome:
        """Make a further release on top of a run."""
        folder = before if isinstance(before, Path) else before.job.folder
        return self._run(Options(scenario="", top_up=folder, out=self.folder / "runs", **options))

    def twice(self, first: Outcome, rounds: Sequence[int]) -> tuple[Outcome, Outcome]:
        """Top up twice after new customers came; the ledger's old lines stay, and new units pay once.

        `rounds` are those of each participant's entries at the end.
        """
        before, spent = {}, {}
        for name in self.names:
            with Ledger.open(self.home(name).ledger, name) as ledger:
                before[name], spent[name] = ledger.entries(), ledger.spent("credit", 1e-5)
            self.arrive(name, 50, 300)
        second = self.top_up(first, units=("90", "used-car=80"))
        third = self.top_up(second)
        for name in self.names:
            with Ledger.open(self.home(name).ledger, name) as ledger:
                entries = ledger.entries()
                assert entries[:2] == before[name]  # an old unit's lines
                assert [entry.round for entry in entries] == list(rounds)
                assert ledger.spent("credit", 1e-5) == pytest.approx(spent[name], abs=1e-3)
        return second, third

    def message(self, name: str, run_id: str, number: int, release: int = 1) -> bytes:
        """Return a coordinator's message of one release, under a centre and a radius that never change."""
        contract = load_scenario(str(self.scenario)).contract
        model = for_participant(initial_groups(contract, [BANK]), BANK)
        if self.steps is None and (number == 2 or release > 1):
            model = {**model, CENTRE: torch.full_like(model[CENTRE], 0.1), RADIUS: torch.full_like(model[RADIUS], 2.0)}
        if release > 1:
            data = json.loads(contract.canonical())
            first: dict[str, Any] = {"run": "growing-1", "contract": contract.sha256(), "release": release}
            if self.steps is None:
                data["sums"]["builds_on"] = {**first, "frozen": {BANK: frozen(model)}}
            else:
                new = dict.fromkeys(self.names, 90)
                data["steps"]["builds_on"] = {**first, "model": {BANK: start_of(model)}, "units": new}
            contract = contract_from_json(json.dumps(data))
        proposal = {"dataset": "credit", "epsilon": self.epsilon, "delta": 1e-5}
        header = {
            "kind": "train",
            "participant": name,
            "industry": BANK,
            "run": run_id,
            "round": str(number),
            "contract": contract.canonical(),
            "proposal": json.dumps(proposal),
        }
        return encode(Envelope(header, dict(model)))

    def ask(self, name: str, run_id: str, number: int, release: int = 1) -> tuple[dict[str, str], list[Array]]:
        """Ask a bank for a message; return its answer's header and the blocks before noise."""
        with observing() as notes:
            reply = handle(self.message(name, run_id, number, release), self.home(name))
        return dict(decode(reply).header), [np.asarray(note.exact) for note in notes]

    def months(self, name: str, files: Sequence[pd.DataFrame]) -> list[Array]:
        """Play one release for each file; return what each summed, as one vector. Everything has to be answered."""
        found = []
        for release, frame in enumerate(files, start=1):
            frame.to_csv(self.folder / f"{name}.csv", index=False)
            blocks: list[Array] = []
            for number in (1, 2) if release == 1 or self.steps is not None else (2,):
                header, exact = self.ask(name, f"growing-{release}", number, release)
                assert header["status"] == "OK", header
                blocks += exact
            found.append(np.concatenate([block.ravel() for block in blocks]))
        return found

    @staticmethod
    def _run(options: Options) -> Outcome:
        return execute(prepare(options), options)
