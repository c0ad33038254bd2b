"""Lists the commands without importing them, so that `--help` loads no heavy library.

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
        "budget:migrate",
        "Give a ledger of schema 1 or 2 what it lacks: the hash chain, the table of claims. Every row stays.",
        "migrate hospital-a",
    ),
    "allow": Entry(
        "budget:allow",
        "Accept a contract: add its hash to the list in each participant's policy. The ledger notes it.",
        "allow hospital-a cross-industry --rounds 10",
    ),
    "show": Entry(
        "budget_accounts:show",
        "Show what was spent on each data set, per run and over its lifetime, and what is left.",
        "show hospital-a --json",
    ),
    "history": Entry(
        "budget_accounts:show_history",
        "Show the entries of the ledger, oldest first: runs, charges, releases, changes of the budget.",
        "history hospital-a --last 50",
    ),
    "set": Entry(
        "budget_accounts:set_budget",
        "Set the participant's own budget in its policy file; the change is recorded in the ledger and costs nothing.",
        "set hospital-a --run 0.5 --lifetime 2",
    ),
    "plan": Entry(
        "budget_tune:plan",
        "Show before joining whether it is worth it, what each ε means in noise and utility, and which change helps.",
        "plan hospitals --participant cleveland --seeds 0",
    ),
    "sweep": Entry(
        "budget_tune:sweep",
        "Run a scenario under several budgets, and show how a participant's ε changes everybody's metric.",
        "sweep banks --participant used-car --epsilon 0.5,1,2,4,8",
    ),
    "export": Entry(
        "budget_accounts:export",
        "Print the ledger as JSON for an auditor, who recounts chain and ε. A broken chain is refused.",
        "export hospital-a > ledger.json",
    ),
}

_CLIENT: Final = {
    "check": Entry(
        "client:check",
        "Hold an industry to the conformance suite (`check_client`), on its own synthetic rows.",
        "check wine",
    ),
    "confirm": Entry(
        "client:confirm",
        "Confirm that bounds and categories read from rows are public knowledge. They are listed, and counted.",
        "confirm wine",
    ),
    "diff": Entry(
        "client:diff",
        "Show what differs between two versions of an industry's file. Exit 1 when something does.",
        "diff wine-old.toml clients/wine.toml",
    ),
}

_DATA: Final = {
    "get": Entry(
        "data_get:get",
        "Download public data sets from their publisher, with licence; each file is checked against its known SHA-256.",
        "get heart german",
    ),
    "map": Entry(
        "data_map:map_rows",
        "Propose how a file's columns become the schema's, and show it. It reads at home and sends nothing.",
        "map rows.csv --client wine",
    ),
    "check": Entry(
        "data_check:check",
        "Check whether rows are ready: missing, bounds, classes, leaks, duplicates, identifiers. Nothing is sent.",
        "check --rows rows.csv --client bank",
    ),
}

_HOME: Final = {
    "backup": Entry(
        "home_backup:backup",
        "Write a participant's home to one encrypted file, also while it runs.",
        "backup hospital-a --to hospital-a.backup",
    ),
    "restore": Entry(
        "home_backup:restore_home",
        "Put a backup back into a home without a ledger. A ledger that lacks a charge is refused.",
        "restore hospital-a --from hospital-a.backup",
    ),
    "init": Entry(
        "home_init:init",
        "Make a participant's home for rows of its own: a policy with source and mapping, split key, empty ledger.",
        "init clinic-a --data rows.csv --client wine --epsilon 2",
    ),
    "log": Entry(
        "home_log:log",
        "Show why a participant refused or failed. The coordinator gets a code only; the cause stays here.",
        "log clinic-a --home homes",
    ),
}

COMMANDS: Final = {
    "check": Entry(
        "check:check",
        "Show the plan of a run: who takes part, what leaves whom, and the noise and ε of each participant.",
        "check cross-industry --epsilon hospital-a=0.5",
    ),
    "audit": Entry(
        "audit:audit",
        "Test whether the training code keeps what the ledger claims. Exit 0: it does; 1: a violation was found.",
        "audit banks --quick",
    ),
    "agree": Entry(
        "agree:agree",
        "Sign what a run may take of this participant: what leaves, to whom, for what, until when, for which ε.",
        'agree hospital-a hospitals --purpose "find heart disease early" --until 2027-12-31',
    ),
    "run": Entry(
        "run:run",
        "Run a scenario and print the receipt of each participant; several end in one paragraph on all of them.",
        "run cross-industry --epsilon hospital-a=0.5 --rounds 10",
    ),
    "demo": Entry(
        "demo:demo",
        "Start a run on synthetic rows and the dashboard that shows it, and open the browser. Ctrl-C ends both.",
        "demo",
    ),
    "statistics": Entry(
        "statistics:statistics",
        "Release noisy statistics of every column under each participant's own budget, and say where sites differ.",
        "statistics hospitals --epsilon 1",
    ),
    "predict": Entry(
        "models:predict",
        "Predict raw rows. Missing values are allowed; a row that breaks the schema gets no prediction.",
        "predict runs/RUN rows.csv --participant used-car --out predictions.csv",
    ),
    "edit": Entry(
        "models:edit",
        "Edit the shapes of a participant's additive model by hand. The edited model is for use at home and never "
        "leaves.",
        "edit runs/RUN --participant high --out shapes.csv",
    ),
    "export": Entry(
        "models:export",
        "Export a released model with its preprocessing, as safetensors and ONNX, as a new version.",
        "export runs/RUN --participant used-car --to models",
    ),
    "models": Entry(
        "models:models",
        "List the exported models with their guarantees, and check all hashes.",
        "models models",
    ),
    "report": Entry(
        "report:report",
        "Write a report of a finished run (report.html, report.md): guarantees, gains and costs.",
        "report runs/RUN",
    ),
    "explain": Entry(
        "explain:explain",
        "Show which columns a run's released model goes by, and how, with what noise leaves open. It costs nothing.",
        "explain runs/RUN --out explained",
    ),
    "contributions": Entry(
        "contributions:contributions",
        "Show what each participant is worth to the others: Shapley values of sums or kept updates. It costs nothing.",
        "contributions runs/RUN",
    ),
    "fairness": Entry(
        "fairness:fairness",
        "Show how the released model treats groups, from noisy histograms: AUC, positive rates, calibration.",
        "fairness runs/RUN",
    ),
    "evidence": Entry(
        "evidence:evidence",
        "Write a run's evidence pack: model card, data sheet, Croissant, DPIA annex, EU AI Act and HIPAA. It is free.",
        "evidence runs/RUN --out evidence",
    ),
    "passport": Entry(
        "passport:passport",
        "Sign what a run cost and released: a participant its own part, the coordinator the passport around them.",
        "passport runs/RUN --key pki/superlink.key",
    ),
    "verify": Entry(
        "passport:verify",
        "Check a passport offline, with pinned keys. Exit 0: all is signed and agrees; 1: what is missing or forged.",
        "verify passport.json --keys keys",
    ),
    "leave": Entry(
        "leave:leave",
        "Take a participant out of a finished run: a new model and a signed certificate. It is free.",
        "leave runs/RUN --participant used-car --key pki/superlink.key",
    ),
    "compose": Entry(
        "compose:compose",
        "Write the Docker Compose file of a scenario, with a separate service for each participant.",
        "compose hospitals && SCENARIO=hospitals docker compose up",
    ),
    "kubernetes": Entry(
        "kubernetes:kubernetes",
        "Write Kubernetes manifests of a coordinator or of a participant, with the walls of the compose files.",
        "kubernetes hospitals --address fed.example.org:8443",
    ),
    "receipt": Entry(
        "receipt:receipt",
        "Show whether joining paid: alone, control, federated and joined side by side, with the net gain.",
        "receipt homes/hospital-a",
    ),
    "dashboard": Entry(
        "dashboard:dashboard",
        "Serve live pages, read-only by default. A token is printed once; $CONSORTIA_DASHBOARD_TOKEN sets it.",
        "dashboard --runs runs; at a participant: consortia dashboard --home homes/hospital-a",
    ),
    "preflight": Entry(
        "preflight:preflight",
        "Check a participant before it joins: address, TLS, clock, key; policy, data, schema, units, budget, noise.",
        "preflight hospital-c --superlink fed.example.org:8443 --root-certificates ca.crt --key node.key",
    ),
    "participant": Entry("participant:app", "Add a participant to a federation, or remove one."),
    "budget": Entry(
        "", "Manage a participant's privacy budget: init, show, history, set, plan, sweep, export.", inside=_BUDGET
    ),
    "client": Entry("", "Check, confirm and compare industries that are files.", inside=_CLIENT),
    "data": Entry("", "Look at a participant's own rows, at home.", inside=_DATA),
    "home": Entry("", "Make, back up and restore a participant's home.", inside=_HOME),
    "new": Entry("new:app", "Write the start of something new."),
    "secure": Entry("secure:app", "Manage the key that identifies a participant in secure sums."),
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
