"""Prints secure sums for `consortia check`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from consortia.planning.secure_sum import exposures, sentence
from consortia.terms.scenario import Scenario


def print_exposure(console: Console, scenario: Scenario) -> None:
    """Print epsilon against 0, t and n - 1 colluders; nothing for local noise."""
    if scenario.contract.by_industry:
        for part in scenario.parts():
            print_exposure(console, part)
        return
    if scenario.contract.trust != "aggregate":
        return
    terms = scenario.contract.secure_terms
    table = Table(title=f"ε of the run ({scenario.contract.rounds} rounds) against the coordinator and c members")
    for heading in ("participant", "sum of", "c = 0", f"c = {terms.colluders} (charged)", "all others", "δ"):
        table.add_column(heading, justify="left" if heading == "participant" else "right")
    for name, found in exposures(scenario).items():
        values = (found["nobody"], found["promised"], found["all_others"])
        table.add_row(name, str(found["cohort"]), *(f"{value:.2f}" for value in values), f"{found['delta']:g}")
    console.print(table)
    console.print(sentence(scenario), highlight=False, soft_wrap=True)
