"""How the released models of a finished run treat groups, from the coordinator's record alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clients import registry
from clients.tables import known_from
from consortia.common.errors import InputError
from consortia.common.run_folders import check_finished
from consortia.common.strict import read_record
from consortia.metrics.fairness import Fairness, fairness
from consortia.terms.scenario import Scenario, scenario_from_json
from consortia.trust.passport.leave import check_whole

__all__ = ["Treated", "fairness_of_record", "fairness_of_run"]


@dataclass(frozen=True)
class Treated:
    """How an industry's released model treats the groups of `column`; `participants` released the counts."""

    industry: str
    column: str
    participants: tuple[str, ...]
    found: Fairness

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        told = {"industry": self.industry, "column": self.column, "participants": list(self.participants)}
        return {**told, **self.found.as_json()}


def fairness_of_record(record: Mapping[str, Any], threshold: float = 0.5) -> list[Treated]:
    """Return how the model of each industry treats groups; nothing where no group was measured.

    The counts of the participants are added, together with their noise. Where somebody left a run they are of a
    withdrawn model, so its industry is left out.
    """
    withdrawn = {one["industry"] for one in record.get("left", {}).values()}
    by_industry: dict[str, dict[str, Any]] = {}
    for name, line in record["participants"].items():
        if line.get("groups") and line["industry"] not in withdrawn:
            by_industry.setdefault(line["industry"], {})[name] = line["groups"]
    found = []
    for industry, told in sorted(by_industry.items()):
        first = next(iter(told.values()))
        counts = np.sum([np.asarray(one["counts"], dtype=np.float64) for one in told.values()], axis=0)
        deviation = float(np.linalg.norm([one["deviation"] for one in told.values()]))
        most = max(int(one["rows_per_unit"]) for one in told.values())
        target = registry.get(industry).schema.target
        made = fairness(target, first["names"], counts, deviation, most, threshold)
        found.append(Treated(industry, first["column"], tuple(told), made))
    return found


def fairness_of_run(
    folder: Path, industries: Sequence[str] = (), participants: Sequence[str] = (), threshold: float = 0.5
) -> list[Treated]:
    """Return how the released models of a run treat groups.

    Guarantee: post-processing of what each participant released; no budget is spent.

    Parameters
    ----------
    folder : Path
        The coordinator's folder of a finished run.
    industries, participants : sequence of str
        Of which alone; without them all.
    threshold : float
        A row is called positive from this score on.

    Raises
    ------
    InputError
        There is no such run, industry or participant, or nothing was measured by group.
    """
    check_finished(folder, "result.json", "scenario.json")
    check_whole(folder)
    if not 0 < threshold < 1:
        raise InputError(f"--threshold: wanted a number between 0 and 1, got {threshold:g}")
    known_from(folder)
    record = read_record(folder / "result.json")
    scenario = scenario_from_json((folder / "scenario.json").read_text(encoding="utf-8"))
    for option, named, known in (
        ("--industry", industries, {line["industry"] for line in record["participants"].values()}),
        ("--participant", participants, set(record["participants"])),
    ):
        if strange := sorted(set(named) - known):
            raise InputError(f"{option} {strange[0]}: wanted one of {', '.join(sorted(known))}, got another")
    kept = {
        name: line
        for name, line in record["participants"].items()
        if (not industries or line["industry"] in industries) and (not participants or name in participants)
    }
    found = fairness_of_record({**record, "participants": kept}, threshold)
    if not found:
        raise InputError(
            f"{folder}: wanted a run whose final model was measured by group, got {_why(record, scenario)}"
        )
    return found


def _why(record: Mapping[str, Any], scenario: Scenario) -> str:
    """Return why nothing was measured by group, and what to do."""
    contract = scenario.contract
    if contract.vertical is not None:
        return "a vertical run, whose model is with the label owner"
    if contract.statistics is not None:
        return "statistics, which train no model"
    if not any(part.contract.evaluation.groups for part in scenario.parts()):
        return "none; name a column in contract.evaluation.groups before a run (docs/how_to/fairness.md)"
    if record.get("left"):
        return "counts of a withdrawn model, since somebody left; measure again in a new run"
    return f"no counts: the run ended {record['status']}, or nobody of these answered the closing evaluation"
