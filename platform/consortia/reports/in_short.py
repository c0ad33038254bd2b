"""Says in one paragraph what the runs of several scenarios found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from consortia.reports.decision import decide
from consortia.terms.scenario import Scenario

__all__ = ["paragraph"]


def paragraph(found: Sequence[tuple[dict[str, Any], Scenario | None]]) -> str:
    """Return the paragraphs of several records, each with its scenario where that is known, as one."""
    return "In short: " + " ".join(f"{result['scenario']}: {decide(result, scenario)}" for result, scenario in found)
