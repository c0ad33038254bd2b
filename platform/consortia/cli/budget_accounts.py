"""`consortia budget show|history|set|export`: a participant reads its ledger and sets its own budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from consortia.common.console import out
from consortia.common.environment import default_root
from consortia.common.errors import InputError
from consortia.participant import budget_change
from consortia.participant.account import history, summary
from consortia.participant.home import Home
from consortia.reports.accounts import print_accounts, print_history
from consortia.terms.policy import Policy, policy_or_input_error
from privacy.errors import PrivacyError
from privacy.ledger import Ledger

HomeOption = Annotated[
    Path | None, typer.Option("--home", help="Folder of the participants; $CONSORTIA_HOME or ~/.consortia.")
]
Participant = Annotated[str, typer.Argument(help="Name of the participant.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def home_of(name: str, root: Path | None) -> Home:
    """Return a participant's home below `root`."""
    return Home(((root or default_root()) / name).resolve(), name)


def open_ledger(home: Home) -> Ledger:
    """Open the ledger; a refusal is a mistake of the user's input here."""
    try:
        return Ledger.open(home.ledger, home.participant)
    except PrivacyError as error:
        raise InputError(str(error)) from None


def _policy(home: Home) -> Policy | None:
    return policy_or_input_error(home.policy, simulation=True) if home.policy.is_file() else None


def show(participant: Participant, home: HomeOption = None, as_json: AsJson = False) -> None:
    """Show what was spent on each data set, per run and over its lifetime, and what is left."""
    place = home_of(participant, home)
    with open_ledger(place) as ledger:
        data = summary(ledger, _policy(place), participant)
    if as_json:
        typer.echo(json.dumps(data, indent=1))
        return
    print_accounts(out, participant, data["accounts"])


def show_history(
    participant: Participant,
    home: HomeOption = None,
    last: Annotated[int, typer.Option(min=1, help="How many entries to print.")] = 30,
    rounds: Annotated[bool, typer.Option("--rounds", help="Each release of each round, not only each run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the entries of the ledger, oldest first: runs, charges, releases, changes of the budget."""
    place = home_of(participant, home)
    with open_ledger(place) as ledger:
        lines = history(ledger)
        accounts = [] if as_json else summary(ledger, _policy(place), participant)["accounts"]
    if as_json:
        typer.echo(json.dumps({"schema": 1, "participant": participant, "history": lines}, indent=1))
        return
    print_history(out, participant, lines, accounts, rounds=rounds, last=last)


def set_budget(
    participant: Participant,
    run: Annotated[float | None, typer.Option(help="ε that one run may spend.")] = None,
    lifetime: Annotated[float | None, typer.Option(help="ε that all runs on a data set may spend.")] = None,
    run_delta: Annotated[float | None, typer.Option(help="δ of one run.")] = None,
    lifetime_delta: Annotated[float | None, typer.Option(help="δ of the lifetime.")] = None,
    evaluation_run: Annotated[float | None, typer.Option(help="ε of one run's metrics (evaluation units).")] = None,
    evaluation_lifetime: Annotated[float | None, typer.Option(help="ε of all runs' metrics on a data set.")] = None,
    evaluation_run_delta: Annotated[float | None, typer.Option(help="δ of one run's metrics.")] = None,
    evaluation_lifetime_delta: Annotated[float | None, typer.Option(help="δ of the metrics' lifetime.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Set the participant's own budget in its policy file; the change is recorded in the ledger and costs nothing.

    The evaluation units are others than the training units and have a budget of their own; without one, no metric
    leaves under DP. Its δ is the training units' unless it is given.
    """
    named = {
        "run": run,
        "lifetime": lifetime,
        "run_delta": run_delta,
        "lifetime_delta": lifetime_delta,
        "evaluation_run": evaluation_run,
        "evaluation_lifetime": evaluation_lifetime,
        "evaluation_run_delta": evaluation_run_delta,
        "evaluation_lifetime_delta": evaluation_lifetime_delta,
    }
    wanted = {name: value for name, value in named.items() if value is not None}
    if not wanted:
        raise InputError(
            "budget set: wanted --run, --lifetime, --evaluation-run, --evaluation-lifetime or the -delta of one of "
            "them, got none"
        )
    place = home_of(participant, home)
    policy_or_input_error(place.policy, simulation=True)
    change = budget_change.check(place, wanted)
    change.make()
    if as_json:
        data = {
            "schema": 1,
            "participant": participant,
            "policy": str(place.policy),
            "before": change.before.budget.model_dump(mode="json"),
            "after": change.after.budget.model_dump(mode="json"),
            "units": {name: terms.unit for name, terms in change.after.dataset.items()},
        }
        typer.echo(json.dumps(data, indent=1))
        return
    for line in change.in_words():
        out.print(line, highlight=False)
    out.print(f"{place.policy}: the next message honours it; recorded in the ledger.", highlight=False, soft_wrap=True)


def export(participant: Participant, home: HomeOption = None) -> None:
    """Print the ledger as JSON for an auditor, who recounts chain and ε. A broken chain is refused."""
    place = home_of(participant, home)
    with open_ledger(place) as ledger:
        data = {**ledger.export(), "accounts": summary(ledger, _policy(place), participant)["accounts"]}
    typer.echo(json.dumps(data, indent=1))
