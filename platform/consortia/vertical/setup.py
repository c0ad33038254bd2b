"""Setup of a vertical run: checks that need no row, and the exchange of keys in a demonstration."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consortia.common.errors import InputError
from consortia.common.strict import read_toml
from consortia.participant.home import Home
from consortia.terms.scenario import Scenario
from consortia.vertical.channel import public_text
from consortia.vertical.grid import Grid
from consortia.vertical.notes import HIDDEN
from privacy.randomized_response import keep_probability

__all__ = ["describe", "introduce", "print_plan"]


def introduce(scenario: Scenario, homes: Mapping[str, Home]) -> None:
    """Make identity keys and pin them in everybody's policy. One operator can do this in a demonstration.

    Real organisations send their public keys out of band (`consortia participant` shows them), and each pins the
    others' keys in its own policy. Pinned keys are not changed.
    """
    terms = scenario.contract.vertical
    if terms is None:
        return
    keys = {name: public_text(home.kept) for name, home in homes.items()}
    authority = secrets.token_bytes(32)
    for name, home in homes.items():
        data = read_toml(home.policy)
        table = data.setdefault("vertical", {})
        peers = {other: key for other, key in keys.items() if other != name}
        if table.get("peers") != peers | table.get("peers", {}):
            table["peers"] = peers | table.get("peers", {})
            home.change_policy(data)
        file = home.kept / "ids.key"
        if terms.keyed_ids and not file.exists():
            file.write_bytes(authority)
            file.chmod(0o600)


def describe(scenario: Scenario) -> list[dict[str, Any]]:
    """Return one line for each participant: its role, what leaves, and what protects it.

    Raises
    ------
    InputError
        The label owner's proposal is not a budget.
    """
    terms = scenario.contract.vertical
    assert terms is not None
    owner = scenario.participant(terms.label_owner)
    if not owner.epsilon > 0:
        raise InputError(f"roster.{owner.name}.epsilon: wanted a number > 0, got {owner.epsilon!r}")
    lines: list[dict[str, Any]] = [
        {
            "name": owner.name,
            "industry": owner.industry,
            "role": "label owner",
            "units": owner.units,
            "epsilon": None if owner.non_private else owner.epsilon,
            "relation": "change one label",
            "true_bits": keep_probability(owner.epsilon, 2),
            "leaves": "blinded identifiers, one noisy label a training row",
        }
    ]
    grid = Grid.for_epsilon(owner.epsilon)
    for name in terms.partners:
        participant = scenario.participant(name)
        what = "the sum of all partners' 6-bit scores" if terms.secure_sum else "one 6-bit score"
        lines.append(
            {
                "name": name,
                "industry": participant.industry,
                "role": "partner",
                "units": participant.units,
                "epsilon": terms.scores_epsilon,
                "relation": "replace one row",
                "true_bits": None,
                "leaves": f"blinded identifiers, {what} a matched row on [-{grid.bound:g}, {grid.bound:g}]",
            }
        )
    return lines


def print_plan(console: Console, scenario: Scenario) -> None:
    """Print each participant's role, what leaves it, and what protects that."""
    contract, terms = scenario.contract, scenario.contract.vertical
    assert terms is not None
    console.print(f"[bold]{scenario.name}[/]: {escape(scenario.title)}")
    console.print(f"contract sha256:{contract.sha256()}")
    console.print(f"vertical, label {terms.label!r}, for: {terms.purpose}", highlight=False)
    table = Table(title="From proposals (a participant's own policy may lower them)")
    for name in ("participant", "role", "units", "ε, δ = 0", "relation", "leaves"):
        table.add_column(name, justify="right" if name in {"units", "ε, δ = 0"} else "left")
    for line in describe(scenario):
        infinite = line["epsilon"] is None or math.isinf(line["epsilon"])
        table.add_row(
            line["name"],
            line["role"],
            str(line["units"]),
            "∞ (non-private)" if infinite else f"{line['epsilon']:g}",
            line["relation"],
            line["leaves"],
        )
    console.print(table)
    owner = describe(scenario)[0]
    console.print(
        f"{owner['true_bits']:.0%} of the labels arrive true; every partner gets the same bits, once. "
        "A score is a function of a person's columns and is disclosed to the label owner: it is the product.",
        highlight=False,
    )
    if terms.hide_membership:
        console.print(HIDDEN, highlight=False)
