"""Says in one paragraph what the newest runs of some scenarios found.

`python -m consortia.reports.in_short RUNS SCENARIO…`
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from consortia.common.errors import InputError
from consortia.reports.receipt_table import label
from consortia.reports.verdicts import verdict_of

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


def paragraph(results: Sequence[Mapping[str, Any]]) -> str:
    """Return what joining brought, by industry, or to a label owner: numbers of the records alone."""
    said = [text for result in results for text in (_own_kind(result), _same_persons(result)) if text]
    made_up = " All rows are synthetic." if all(result["synthetic"] for result in results) else ""
    return f"In short: {' '.join(said)}{made_up}"


def _own_kind(result: Mapping[str, Any]) -> str:
    participants = [participant for participant in result["participants"].values() if participant.get("net_gain")]
    if not participants:
        return ""
    industries = sorted({participant["industry"] for participant in participants})
    gains = {
        name: statistics.fmean(
            participant["net_gain"]["value"] for participant in participants if participant["industry"] == name
        )
        for name in industries
    }
    told = ", ".join(f"{name} {gain:+.3f}" for name, gain in gains.items())
    words = [verdict_of(participant) for participant in participants]
    paid = f"it paid clearly for {words.count('clearly')}, perhaps for {words.count('perhaps')}, not for the others"
    budgets = [
        participant["epsilon"]["budget"] for participant in participants if participant["epsilon"]["budget"] is not None
    ]
    epsilon = f", ε {min(budgets):g} to {max(budgets):g}," if budgets else ""
    return (
        f"{len(participants)} organisations learned with their own kind{epsilon} and nobody saw another's rows. "
        "What each "
        f"then uses differs from two models of its own, stacked, by {told} ({_headline(participants)}, mean over an "
        f"industry); {paid}."
    )


def _same_persons(result: Mapping[str, Any]) -> str:
    for name, participant in result["participants"].items():
        if participant.get("role") == "label owner" and participant.get("gain"):
            values, others = (
                participant["metrics"][participant["headline"]],
                [n for n in result["participants"] if n != name],
            )
            return (
                f"Where organisations of different industries know the same persons, {' and '.join(others)} helped the "
                f"{name} from {values['local']:.3f} to {values['federated']:.3f} ({label(participant['headline'])}, "
                "label "
                f"ε {participant['epsilon']['run']:g})."
            )
    return ""


def _headline(participants: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(sorted({label(participant["headline"]) for participant in participants}))


if __name__ == "__main__":
    sys.stdout.write(paragraph([newest(Path(sys.argv[1]), name) for name in sys.argv[2:]]) + "\n")
