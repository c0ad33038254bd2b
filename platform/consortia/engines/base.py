"""Defines the input and the output of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from consortia.participant.home import Home
from consortia.terms.scenario import Scenario


@dataclass(frozen=True)
class Job:
    """One run to execute.

    Attributes
    ----------
    scenario : Scenario
        The effective scenario, with all overrides.
    run_id : str
    folder : Path
        The coordinator's folder of this run.
    homes : dict of str to Home
        By participant.
    sources : dict of str to str
        Sources that replace those of the policies, set on the participant's side (`--data`).
    resume : bool
        Continue after the last committed round.
    batches : int, optional
        Batches of new persons to score by the end of this run (vertical); all of the contract's by default.
    """

    scenario: Scenario
    run_id: str
    folder: Path
    homes: dict[str, Home]
    sources: dict[str, str]
    resume: bool = False
    batches: int | None = None

    def run_config(self, join_seconds: float) -> dict[str, str | bool | float]:
        """Return the ServerApp's run config."""
        return {
            "scenario": self.scenario.to_json(),
            "run-id": self.run_id,
            "out": str(self.folder.resolve()),
            "resume": self.resume,
            "batches": -1 if self.batches is None else self.batches,
            "join-seconds": join_seconds,
            "heads": str(self.heads or ""),
        }

    @property
    def heads(self) -> Path | None:
        """File of the ledgers' heads across runs; None for scratch ledgers."""
        home = next(iter(self.homes.values()))
        if home.ledger_folder is not None:
            return home.ledger_folder.resolve().parent / "heads.json"
        return None if home.simulation else self.folder.resolve().parent / "heads.json"

    def node_config(self, name: str) -> dict[str, str | bool]:
        """Return the node config of one participant, which its own side sets."""
        home = self.homes[name]
        config: dict[str, str | bool] = {
            "participant": name,
            "home": str(home.folder),
            "simulation": home.simulation,
        }
        if home.control:
            config["control"] = True
        if home.ledger_folder is not None:
            config["ledger"] = str(home.ledger_folder)
        if name in self.sources:
            config["source"] = self.sources[name]
        return config


class Engine(Protocol):
    """Runs the ServerApp and one ClientApp per participant to the end."""

    def __call__(self, job: Job) -> None:
        """Run `job`; `RunFailedError` for a named failure. Afterwards `job.folder` holds the record."""
        ...
