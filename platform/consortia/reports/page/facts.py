"""Gathers the facts of a report from a run's records.

The coordinator's records hold released and public values (`consortia.reports.live_runs`). Receipts are added only where
the reader owns them: all of a simulation's, whose operator holds all rows, or those that are named and lie where the
reader can read. Texts that a participant wrote (details of failures) are left out: they may quote a row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consortia.common.run_folders import check_finished, run_folder
from consortia.common.strict import read_record
from consortia.reports.live_runs import Point, Run
from consortia.reports.many_participants import first
from consortia.reports.spent_by_round import curve
from consortia.trust.passport.leave import check_whole

__all__ = ["Facts", "gather"]


#: What a receipt adds to a line of the record.
_OWNED = frozenset({"units", "metrics", "headline", "gain", "net_gain", "net_gains", "forecast"})


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
    whose : str
        The participant whose own report it is; empty in a report of all.
    beside : bool
        Whether the report stands in the run's folder, so that it can link to its files.
    """

    run: Run
    result: dict[str, Any]
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    progress: dict[str, tuple[str, list[tuple[int, float]]]] = field(default_factory=dict)
    epsilon: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    whose: str = ""
    beside: bool = False

    @property
    def simulation(self) -> bool:
        """Whether one operator held all rows."""
        return bool(self.result["observer"] == "simulation")

    @property
    def participants(self) -> dict[str, dict[str, Any]]:
        """Lines of the record, each with what its receipt adds where the reader owns it."""
        return {
            name: {**line, **{key: value for key, value in self.receipts.get(name, {}).items() if key in _OWNED}}
            for name, line in self.result["participants"].items()
        }

    @property
    def vertical(self) -> bool:
        """Whether participants hold columns of the same persons."""
        return self.run.scenario.contract.vertical is not None

    def released(self) -> dict[str, dict[str, list[Point]]]:
        """Return the released metrics between rounds, by metric and participant."""
        found: dict[str, dict[str, list[Point]]] = {}
        for participant in first([self.run.participants[name] for name in self.result["participants"]]):
            for metric, points in participant.metrics.items():
                found.setdefault(metric, {})[participant.name] = points
        return found


def gather(folder: Path, whose: str = "") -> Facts:
    """Read the records of a finished run, for everybody or for one participant.

    Parameters
    ----------
    folder : Path
        Of the run: scenario.json, events.jsonl, result.json.
    whose : str
        The participant whose own report it is: its receipt and its lines alone. Without it, all lines, and in a
        simulation all receipts.

    Raises
    ------
    InputError
        There is no finished run, no such receipt, or somebody's leaving was interrupted.
    """
    check_finished(folder, "result.json", "scenario.json")
    check_whole(folder)
    result = read_record(folder / "result.json")
    run = Run(folder)
    run.refresh()
    owned = [whose] if whose else []
    if not whose and result["observer"] == "simulation" and run.scenario.contract.statistics is None:
        owned = [name for name, participant in result["participants"].items() if participant["rows"] is not None]
    facts = Facts(run, result, whose=whose)
    for name in owned:
        home = run_folder(str(folder), name)
        facts.receipts[name] = read_record(home / "receipt.json")
        if points := _progress(home / "progress.jsonl"):
            facts.progress[name] = points
    if whose:
        result["participants"] = {whose: result["participants"][whose]}
    for participant in first([run.participants[name] for name in result["participants"]]):
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


@dataclass(frozen=True)
class Promise:
    """What (ε, δ) of a run is about.

    Attributes
    ----------
    units : str
        What one unit is.
    deltas : str
        Each δ that a participant took part at.
    rests_on_members : bool
        Whether it holds only while the members whom the contract counts on are honest.
    """

    units: str
    deltas: str
    rests_on_members: bool


def promise(facts: Facts) -> Promise | None:
    """Return it; None where nobody is known to have taken part at a finite ε."""
    every = (one["epsilon"] for one in facts.result["participants"].values())
    accounts = [account for account in every if account["non_private"] is False]
    if not accounts:
        return None
    return Promise(
        " or ".join(sorted({account["unit"] for account in accounts if account["unit"]})),
        ", ".join(f"{delta:g}" for delta in sorted({account["delta"] for account in accounts})),
        any(part.contract.trust == "aggregate" for part in facts.run.scenario.parts()),
    )
