"""Says in one paragraph what the newest runs of some scenarios found.

`python -m consortia.reports.in_short RUNS SCENARIO…`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consortia.common.errors import InputError
from consortia.reports.decision import decide
from consortia.terms.scenario import Scenario, scenario_from_json

__all__ = ["newest", "paragraph"]


def newest(folder: Path, scenario: str) -> dict[str, Any]:
    """Return the record of a scenario's newest finished run.

    Raises
    ------
    InputError
        When there is none.
    """
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob(f"{scenario}-*/result.json"))]
    # Run ids begin with their scenario's name, and so may other scenarios' names.
    finished = [one for one in found if one["scenario"] == scenario and one["status"] == "completed"]
    if not finished:
        raise InputError(f"{folder}: wanted a finished run of {scenario}, got none; `consortia run {scenario}`")
    return max(finished, key=lambda one: str(one["run_id"]))


def paragraph(found: Sequence[tuple[dict[str, Any], Scenario | None]]) -> str:
    """Return the paragraphs of several records, each with its scenario where that is known, as one."""
    return "In short: " + " ".join(f"{result['scenario']}: {decide(result, scenario)}" for result, scenario in found)


def _agreed(folder: Path, result: dict[str, Any]) -> Scenario | None:
    file = folder / result["run_id"] / "scenario.json"
    return scenario_from_json(file.read_text(encoding="utf-8")) if file.is_file() else None


if __name__ == "__main__":
    runs = Path(sys.argv[1])
    records = [newest(runs, name) for name in sys.argv[2:]]
    sys.stdout.write(paragraph([(record, _agreed(runs, record)) for record in records]) + "\n")
