"""What the coordinator knows of one participant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from consortia.coordinator.received_metrics import Received
from consortia.terms.roster import RosterParticipant


@dataclass
class ParticipantView:
    """The coordinator's picture of one participant: released and public values only."""

    participant: RosterParticipant
    state: str = "ACTIVE"
    header: dict[str, str] = field(default_factory=dict)
    bytes_sent: int = 0
    bytes_received: int = 0
    bytes_saved: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    released: dict[int, Received] = field(default_factory=dict)
    rounds_contributed: int = 0
    size: int | None = None


def sizes_of(participants: Mapping[str, ParticipantView]) -> dict[str, int]:
    """Return the sizes that were released with noise, by participant."""
    return {name: view.size for name, view in participants.items() if view.size is not None}


def recall(participants: Mapping[str, ParticipantView], history: Sequence[Mapping[str, Any]]) -> None:
    """Read the released sizes and the numbers of contributions from the rounds of a resumed run."""
    for name, size in (history[-1].get("sizes", {}) if history else {}).items():
        participants[name].size = int(size)
    for line in history:
        for name in line["replies"]:
            participants[name].rounds_contributed += 1


def standing(view: ParticipantView) -> dict[str, Any]:
    """Return the state of one participant: its status, its declarations and the counters."""
    header = view.header
    budget = header.get("epsilon_budget", "null")
    return {
        "state": view.state,
        "rounds_contributed": view.rounds_contributed,
        "noise_multiplier": float(header["noise_multiplier"]) if header else None,
        "epsilon_budget": None if budget == "null" else float(budget),
        "delta": float(header["delta"]) if header else view.participant.delta,
        "unit": header.get("unit"),
        "non_private": header.get("non_private") == "true" if header else None,
        "bytes": {
            "sent": view.bytes_sent,
            "received": view.bytes_received,
            **({"saved": view.bytes_saved} if view.bytes_saved else {}),
        },
    }


def restore(view: ParticipantView, stood: Mapping[str, Any]) -> None:
    """Restore the state that a participant had when the run was interrupted: its declarations and the counters."""
    view.rounds_contributed = stood["rounds_contributed"]
    view.bytes_sent, view.bytes_received = stood["bytes"]["sent"], stood["bytes"]["received"]
    if stood["non_private"] is not None:
        budget = stood["epsilon_budget"]
        view.header = {
            "noise_multiplier": repr(stood["noise_multiplier"]),
            "epsilon_budget": "null" if budget is None else repr(budget),
            "delta": repr(stood["delta"]),
            "unit": stood["unit"],
            "non_private": str(stood["non_private"]).lower(),
        }


def standings(participants: Mapping[str, ParticipantView]) -> dict[str, dict[str, Any]]:
    """Return the state of every participant, by name."""
    return {name: standing(view) for name, view in participants.items()}


def describe(view: ParticipantView) -> dict[str, Any]:
    """Return the record's entry of one participant."""
    final = next((one for one in view.released.values() if one.partition == "evaluation"), None)
    return {
        "industry": view.participant.industry,
        **standing(view),
        "failures": view.failures,
        "metrics": None if final is None else {name: estimate.value for name, estimate in final.estimates.items()},
        "released": None if final is None else final.to_json(),
        "metrics_non_private": any(received.exact for received in view.released.values()),
    }
