"""Prints a vertical run: its steps, the decision and the account."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

from consortia.engines.base import Job
from consortia.vertical.notes import HIDDEN

__all__ = ["long_step", "print_vertical_notes", "show_step"]

_SAYS = {
    "hello": "partners sent fresh keys",
    "blind": "label owner sent blinded identifiers",
    "match": "partners matched",
    "label": "label owner sent noisy labels",
    "assist": "partners sent scores",
    "stack": "label owner stacked at home",
}


def show_step(event: dict[str, Any]) -> str:
    """Return the sentence of one finished step."""
    batch = f", new persons, batch {event['batch']}" if event["batch"] else ""
    return f"{event['step']}: {_SAYS[event['step']]} ({len(event['replies'])}){batch}, {event['seconds']:.1f} s"


def long_step(job: Job) -> str:
    """Return how far a long step of a simulation's participants is, or nothing."""
    parts = []
    for name, home in job.homes.items():
        file = home.folder / "runs" / job.run_id / "steps.jsonl"
        if file.is_file() and (lines := file.read_text(encoding="utf-8").splitlines()):
            last = json.loads(lines[-1])
            if last["done"] < last["total"]:
                parts.append(f"{name} {last['step']} {last['done'] / last['total']:.0%}")
    return "; ".join(parts)


def print_vertical_notes(console: Console, result: dict[str, Any]) -> None:
    """Print what the label owner decided, and what every epsilon means in this mode."""
    for name, participant in result["participants"].items():
        decision = participant.get("decision")
        if decision and decision["cross_validated_gain"] is None:
            console.print(
                f"{name} stays alone: a class has too few training rows to cross-validate.",
                highlight=False,
            )
        elif decision:
            console.print(
                f"{name} {'joins' if decision['joins'] else 'stays alone'}: cross-validated gain "
                f"{decision['cross_validated_gain']:+.3f} AUC, standard error "
                f"{decision['standard_error']:.3f}; joins when the gain exceeds the error + {decision['margin']}.",
                highlight=False,
            )
        if participant.get("hide_membership"):
            console.print(HIDDEN, highlight=False)
    units = ", ".join(sorted({s["epsilon"]["unit"] for s in result["participants"].values() if s["epsilon"]["unit"]}))
    console.print(
        f"ε of the label owner: labels under randomised response, pure (δ = 0), unit {units or '-'}, change one label; "
        "lifetime: all runs of these labels in this ledger. ε of a partner: its scores, replace one row; ∞ means that "
        "one coarse score a matched row is disclosed to the label owner. Who is matched is disclosed to both.",
        highlight=False,
    )
