"""Statistics before training on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from consortia.common.words import number
from consortia.reports.receipt_table import folded_table as table_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_statistics", "verdict_words", "words"]


def words(found: Mapping[str, float | None] | None) -> str:
    """Return an estimate in words: the value and its 95 % interval."""
    if found is None:
        return "–"
    if found["value"] is None:
        return "too noisy to say"
    return f"{found['value']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"


def verdict_words(verdict: Mapping[str, Any] | None) -> str:
    """Return what is said of a column, with the difference that decides."""
    if verdict is None:
        return "–"
    if verdict["differ"] is None:
        return "too noisy to say"
    said = "[bold]differ[/]" if verdict["differ"] else "no difference seen"
    return (
        f"{said}: {verdict['what']} at {verdict['site']} {verdict['difference']:+.3g} "
        f"({verdict['low']:+.3g} to {verdict['high']:+.3g})"
    )


def print_statistics(console: Console, result: Mapping[str, Any]) -> None:
    """Print each industry's columns with error bars and verdicts, and what they cost."""
    from rich.markup import escape

    for industry, found in result.get("statistics", {}).items():
        together = found["together"]
        console.print(f"[bold]{industry}[/]: {words(together['units'])} training units, 95 % intervals of the noise")
        if found["weighted"]:
            console.print("Members with a smaller budget count less, so counts are weighted; shares and means are too.")
        table, sites = table_of("column", "missing", "mean", "spread"), table_of("column", "sites differ")
        for name, column in together["columns"].items():
            sites.add_row(escape(name), verdict_words(found["differ"].get(name)))
            cells = (words(column["missing"]), words(column.get("mean")), words(column.get("spread")))
            table.add_row(escape(name), *map(escape, cells))
        target = together["target"]
        shares = "; ".join(f"{label} {words(one)}" for label, one in target.get("shares", {}).items())
        of_target = (escape(shares or words(target.get("mean"))), escape(words(target.get("spread"))))
        table.add_row(f"target {escape(target['name'])}", "–", *of_target)
        sites.add_row(f"target {escape(target['name'])}", verdict_words(found["differ"].get(target["name"])))
        console.print(table)
        if found["differ"]:
            console.print(sites)
        else:
            console.print("Nobody saw one site's numbers; each compared itself with the rest at home.")
    costs = table_of("participant", "ε run", "budget", "δ", "ε lifetime", "columns that differ from the rest (at home)")
    for name, participant in result["participants"].items():
        account = participant["epsilon"]
        infinite = bool(account["non_private"])
        costs.add_row(
            name,
            "∞ non-private" if infinite else number(account["run"]),
            "–" if infinite else number(account["budget"], 2),
            "–" if account["delta"] is None else f"{account['delta']:g}",
            "∞" if infinite else number(account["lifetime"]),
            escape(_at_home(participant)),
        )
    console.print(costs)
    console.print("ε: one release (PLD) of the training units, adding or removing one; charged within the lifetime.")


def _at_home(participant: Mapping[str, Any]) -> str:
    if "differ" not in participant:
        return "known at home"
    verdicts = participant["differ"]
    unknown = all(verdict["differ"] is None for verdict in verdicts.values())
    return ", ".join(name for name, v in verdicts.items() if v["differ"]) or ("too noisy to say" if unknown else "none")
