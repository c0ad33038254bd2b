"""Which commands there are, said without importing them: `--help` and a mistake in a name cost no library.

A test compares the sentences with the commands' own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import typer

from consortia.common.console import friendly

__all__ = ["COMMANDS", "HELP", "Entry", "assemble"]

HELP: Final = "Organisations of different industries train models together, each under its own privacy budget."


@dataclass(frozen=True)
class Entry:
    """A command, or a group of them.

    Attributes
    ----------
    where : str
        `module:name` below `consortia.cli`, of a function or of a typer application; empty with `inside`.
    help : str
        The first paragraph of its help.
    example : str
        What stands below its help.
    inside : mapping
        The commands of a group that are imported one by one.
    """

    where: str
    help: str
    example: str = ""
    inside: Mapping[str, Entry] = field(default_factory=dict)


_BUDGET: Final = {
    "init": Entry(
        "budget:init",
        "Make a participant's home: policy, split key, empty ledger. An existing ledger is never touched.",
        "init hospital-a --policy hospital-a.toml",
    ),
    "migrate": Entry(
        "budget:migrate", "Give a ledger of schema 1 its hash chain. Every row stays.", "migrate hospital-a"
    ),
    "allow": Entry(
        "budget:allow",
        "Accept a contract: add its hash to the list in the participant's policy.",
        "allow hospital-a cross-industry --rounds 10",
    ),
    "show": Entry(
        "budget_accounts:show",
        "Show what was spent on which data set, by what, per run and over its lifetime, and what is left.",
        "show hospital-a --json",
    ),
    "history": Entry(
        "budget_accounts:show_history",
        "Show what the ledger's chain holds, oldest first: runs, charges, releases, changes of the budget.",
        "history hospital-a --last 50",
    ),
    "set": Entry(
        "budget_accounts:set_budget",
        "Set the participant's own budget in its policy file; the change is recorded in the ledger and costs nothing.",
        "set hospital-a --run 0.5 --lifetime 2",
    ),
    "plan": Entry(
        "budget_tune:plan",
        "Answer before joining: what each ε means in noise, rounds and expected utility, and which knob helps.",
        "plan hospitals --participant cleveland --seeds 0",
    ),
    "sweep": Entry(
        "budget_tune:sweep",
        "Run a scenario under several budgets side by side and show what one's ε does to everybody's metric.",
        "sweep banks --participant used-car --epsilon 0.5,1,2,4,8",
    ),
    "export": Entry(
        "budget_accounts:export",
        "Print the ledger as JSON for an auditor, who recounts chain and ε; refused when the chain does not add up.",
        "export hospital-a > ledger.json",
    ),
}

COMMANDS: Final = {
    "check": Entry(
        "check:check",
        "Show who would do what, what leaves whom, and the noise and ε of each participant.",
        "check cross-industry --epsilon hospital-a=0.5",
    ),
    "audit": Entry(
        "audit:audit",
        "Audit the training path on rows of the audit's own: exit 0 when every law holds, 1 on a violation.",
        "audit banks --quick",
    ),
    "run": Entry(
        "run:run",
        "Train a scenario and print each participant's receipt.",
        "run cross-industry --epsilon hospital-a=0.5 --rounds 10",
    ),
    "predict": Entry(
        "models:predict",
        "Predict raw rows, missing values included; a row that breaks the schema gets none.",
        "predict runs/RUN rows.csv --participant used-car --out predictions.csv",
    ),
    "export": Entry(
        "models:export",
        "Write the released model as safetensors and ONNX with its preprocessing into a folder of models.",
        "export runs/RUN --participant used-car --to models",
    ),
    "models": Entry(
        "models:models",
        "List every version of every model, with its guarantee; check all hashes.",
        "models models",
    ),
    "report": Entry(
        "report:report",
        "Write report.html and report.md: what was trained, under which guarantee, what it gained and cost.",
        "report runs/RUN",
    ),
    "compose": Entry(
        "compose:compose",
        "Write the scenario's compose file beside it: one service and one wall for each participant.",
        "compose hospitals && SCENARIO=hospitals docker compose up",
    ),
    "receipt": Entry(
        "receipt:receipt",
        "Show whether joining paid: alone, control, federated and joined side by side, with the net gain.",
        "receipt homes/hospital-a",
    ),
    "dashboard": Entry(
        "dashboard:dashboard",
        "Serve live pages, read-only, behind a token that is printed once ($CONSORTIA_DASHBOARD_TOKEN to choose it).",
        "dashboard --runs runs; at a participant: consortia dashboard --home homes/hospital-a",
    ),
    "preflight": Entry(
        "preflight:preflight",
        "Name the broken link, one line each: address, TLS, clock, key; policy, data, schema, units, budget, noise.",
        "preflight hospital-c --superlink fed.example.org:8443 --root-certificates ca.crt --key node.key",
    ),
    "participant": Entry("participant:app", "Add a participant to a federation, or remove one."),
    "budget": Entry("", "A participant's privacy budget: make, show, set, plan, sweep, export.", inside=_BUDGET),
    "new": Entry("new:app", "Write the start of something new."),
    "secure": Entry("secure:app", "The identity that signs a participant's keys of secure sums."),
}


def assemble(entries: Mapping[str, Entry], text: str, words: list[str] | None, prefix: str = "") -> typer.Typer:
    """Return an application of the entries; with `words`, only the command that they name is imported.

    Parameters
    ----------
    text : str
        Help of the whole.
    prefix : str
        The words before a command in its example.
    """
    app = typer.Typer(
        name="consortia",
        help=text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    named = None if words is None else next((word for word in words if not word.startswith("-")), "")
    for name, entry in entries.items():
        wanted = named is None or named == name
        if not wanted:
            app.command(name, help=entry.help)(_elsewhere)
        elif entry.inside:
            rest = None if words is None else words[words.index(name) + 1 :]
            app.add_typer(assemble(entry.inside, entry.help, rest, f"{prefix}{name} "), name=name)
        else:
            found = _found(entry.where)
            if isinstance(found, typer.Typer):
                app.add_typer(found, name=name)
            else:
                app.command(name, epilog=f"Example: consortia {prefix}{entry.example}")(friendly(found))
    return app


def _found(where: str) -> typer.Typer | Callable[..., Any]:
    module, _, name = where.partition(":")
    found: typer.Typer | Callable[..., Any] = getattr(importlib.import_module(f"consortia.cli.{module}"), name)
    return found


def _elsewhere() -> None:
    """Stand for a command that the command line does not name."""
