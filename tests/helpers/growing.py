"""A consortium of banks whose customers arrive month by month, on ledgers that outlive a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w

from clients.bank import synthesise
from consortia.engines.options import Options
from consortia.engines.runner import Outcome, execute, prepare
from consortia.participant.home import Home
from consortia.terms.scenario import load_scenario
from privacy.ledger import Ledger

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
    terms : of every policy's data set, in place of the defaults.
    """

    folder: Path
    epsilon: float = 3.0
    sums: dict[str, Any] = field(default_factory=lambda: {"grows": True})
    terms: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = NAMES

    def __post_init__(self) -> None:
        data = load_scenario("banks").model_dump(mode="json", by_alias=True, exclude_none=True)
        data["name"] = "growing-banks"
        data["roster"] = [{**one, "epsilon": self.epsilon} for one in data["roster"] if one["name"] in self.names]
        data["contract"]["sums"] |= self.sums
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
            "allow": {"releases": ["sums"], "contracts": "any", "non_private": np.isinf(self.epsilon).item()},
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

    @staticmethod
    def _run(options: Options) -> Outcome:
        return execute(prepare(options), options)
