"""Gathers the facts of a report from a run's records.

The coordinator's records hold released and public values (`consortia.reports.live_runs`). Receipts are added only where
the reader owns them: all of a simulation's, whose operator holds all rows, or those that are named and lie where the
reader can read. Texts that a participant wrote (details of failures) are left out: they may quote a row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consortia.common.errors import InputError
from consortia.common.strict import read_record
from consortia.models.source import run_folder
from consortia.reports.live_runs import Point, Run
from consortia.reports.many_participants import first
from consortia.reports.spent_by_round import curve

__all__ = ["Facts", "gather"]


@dataclass(frozen=True)
class Facts:
    """What a report is made of.

    Attributes
    ----------
    result : dict
        `result.json` without what only a simulation adds from receipts.
    receipts : dict
        Of those participants whose receipts the reader owns, by name.
    progress : dict
        Those participants' own validation metric by round: (name of the metric, points).
    epsilon : dict
        (round, epsilon of the run so far), by participant.
    """

    run: Run
    result: dict[str, Any]
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    progress: dict[str, tuple[str, list[tuple[int, float]]]] = field(default_factory=dict)
    epsilon: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    @property
    def simulation(self) -> bool:
        """Whether one operator held all rows."""
        return bool(self.result["observer"] == "simulation")

    @property
    def vertical(self) -> bool:
        """Whether participants hold columns of the same persons."""
        return self.run.scenario.contract.vertical is not None

    def released(self) -> dict[str, dict[str, list[Point]]]:
        """Return the released metrics between rounds, by metric and participant."""
        found: dict[str, dict[str, list[Point]]] = {}
        for participant in first(list(self.run.participants.values())):
            for metric, points in participant.metrics.items():
                found.setdefault(metric, {})[participant.name] = points
        return found


def gather(folder: Path, participants: Sequence[str] = ()) -> Facts:
    """Read the records of a finished run.

    Parameters
    ----------
    folder : Path
        Of the run: scenario.json, events.jsonl, result.json.
    participants : sequence of str
        Whose receipts to add, beside a simulation's.

    Raises
    ------
    InputError
        There is no finished run, or no such receipt.
    """
    if not (folder / "result.json").is_file() or not (folder / "scenario.json").is_file():
        raise InputError(f"{folder}: wanted the folder of a finished run with result.json, got none")
    result = read_record(folder / "result.json")
    run = Run(folder)
    run.refresh()
    owned = list(participants)
    if result["observer"] == "simulation" and run.scenario.contract.statistics is None:
        owned += [name for name, participant in result["participants"].items() if participant["rows"] is not None]
    facts = Facts(run, result)
    for name in dict.fromkeys(owned):
        home = run_folder(str(folder), name)
        facts.receipts[name] = read_record(home / "receipt.json")
        if points := _progress(home / "progress.jsonl"):
            facts.progress[name] = points
    for participant in first(list(run.participants.values())):
        if found := curve(run, participant):
            facts.epsilon[participant.name] = found
    return facts


def _progress(file: Path) -> tuple[str, list[tuple[int, float]]] | None:
    """Return the metric that most rounds have, with its values."""
    if not file.is_file():
        return None
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    known = [line for line in lines if line["value"] is not None]
    if not known:
        return None
    metric = known[-1]["metric"]
    return metric, [(line["round"], line["value"]) for line in known if line["metric"] == metric]
