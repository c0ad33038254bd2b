"""What the coordinator knows of one participant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from consortia.coordinator.received_metrics import Received
from consortia.terms.roster import Seat


@dataclass
class Member:
    """The coordinator's picture of one participant: released and public values only."""

    seat: Seat
    state: str = "ACTIVE"
    header: dict[str, str] = field(default_factory=dict)
    bytes_sent: int = 0
    bytes_received: int = 0
    bytes_saved: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    released: dict[int, Received] = field(default_factory=dict)
    rounds_contributed: int = 0
    size: int | None = None


def sizes_of(members: Mapping[str, Member]) -> dict[str, int]:
    """Return the sizes that were released with noise, by participant."""
    return {name: member.size for name, member in members.items() if member.size is not None}


def recall(members: Mapping[str, Member], history: Sequence[Mapping[str, Any]]) -> None:
    """Take the released sizes, and how often everybody contributed, out of the rounds of a run that goes on."""
    for name, size in (history[-1].get("sizes", {}) if history else {}).items():
        members[name].size = int(size)
    for line in history:
        for name in line["replies"]:
            members[name].rounds_contributed += 1


def standing(member: Member) -> dict[str, Any]:
    """Return where one participant stands: its state, what it declared, what was counted so far."""
    header = member.header
    budget = header.get("epsilon_budget", "null")
    return {
        "state": member.state,
        "rounds_contributed": member.rounds_contributed,
        "noise_multiplier": float(header["noise_multiplier"]) if header else None,
        "epsilon_budget": None if budget == "null" else float(budget),
        "delta": float(header["delta"]) if header else member.seat.delta,
        "unit": header.get("unit"),
        "non_private": header.get("non_private") == "true" if header else None,
        "bytes": {
            "sent": member.bytes_sent,
            "received": member.bytes_received,
            **({"saved": member.bytes_saved} if member.bytes_saved else {}),
        },
    }


def restore(member: Member, stood: Mapping[str, Any]) -> None:
    """Take back where a participant stood when a run was interrupted: what it declared, what was counted."""
    member.rounds_contributed = stood["rounds_contributed"]
    member.bytes_sent, member.bytes_received = stood["bytes"]["sent"], stood["bytes"]["received"]
    if stood["non_private"] is not None:
        budget = stood["epsilon_budget"]
        member.header = {
            "noise_multiplier": repr(stood["noise_multiplier"]),
            "epsilon_budget": "null" if budget is None else repr(budget),
            "delta": repr(stood["delta"]),
            "unit": stood["unit"],
            "non_private": str(stood["non_private"]).lower(),
        }


def standings(members: Mapping[str, Member]) -> dict[str, dict[str, Any]]:
    """Return where everybody stands, by name."""
    return {name: standing(member) for name, member in members.items()}


def describe_member(member: Member) -> dict[str, Any]:
    """Return what the record says of one participant."""
    final = next((one for one in member.released.values() if one.partition == "evaluation"), None)
    return {
        "industry": member.seat.industry,
        **standing(member),
        "failures": member.failures,
        "metrics": None if final is None else {name: estimate.value for name, estimate in final.estimates.items()},
        "released": None if final is None else final.to_json(),
        "metrics_non_private": any(received.exact for received in member.released.values()),
    }
