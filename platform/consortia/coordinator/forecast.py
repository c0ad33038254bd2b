"""What each participant can expect from a run. It is written down before the first message and sent with every
message."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from consortia.common.disk import write_json
from consortia.terms.forecast import FILE, forecasts
from consortia.terms.scenario import Scenario

__all__ = ["announced"]


def announced(scenario: Scenario, folder: Path) -> Mapping[str, dict[str, Any]]:
    """Return the forecasts by participant, and write them to the run's folder. A resumed run keeps its forecasts.

    Only the learner `sums` has forecasts.
    """
    file = folder / FILE
    if file.is_file():
        found: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        return found
    made = {name: one.to_json() for name, one in forecasts(scenario).items()}
    if made:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, made)
    return made
