"""`consortia budget show|history|set|export`: a participant reads its ledger and sets its own budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated

import typer

from consortia.cli.options import AsJson, HomeFolder, ParticipantName, home_of
from consortia.common.console import out, tell
from consortia.common.errors import InputError
from consortia.participant import budget_change
from consortia.participant.account import history, summary
from consortia.participant.home import Home
from consortia.planning.known import known
from consortia.reports.accounts import print_accounts, print_history
from consortia.terms.policy import Policy, policy_or_input_error
from privacy.accounting import epsilon, merge
from privacy.events import Event


def _policy(home: Home) -> Policy | None:
    return policy_or_input_error(home.policy, simulation=True) if home.policy.is_file() else None


def _count(events: Sequence[Event], delta: float) -> float:
    """Return the ε of events to show, from an earlier command where one counted the same; exports count again."""
    if any(event.non_private for event in events):
        return epsilon(events, delta)
    text = json.dumps([[event.to_json() for event in merge(events)], delta])
    key = hashlib.sha256(text.encode()).hexdigest()  # the file shall hold no name of a column
    return known(["account", key], lambda: (epsilon(events, delta),), 1)[0]


def show(participant: ParticipantName, home: HomeFolder = None, as_json: AsJson = False) -> None:
    """Show what was spent on each data set, per run and over its lifetime, and what is left."""
    place = home_of(participant, home)
    with place.open_for_owner() as ledger:
        data = summary(ledger, _policy(place), participant, _count)
    if as_json:
        typer.echo(json.dumps(data, indent=1))
        return
    print_accounts(out, participant, data["accounts"])


def show_history(
    participant: ParticipantName,
    home: HomeFolder = None,
    last: Annotated[int, typer.Option(min=1, help="How many entries to print.")] = 30,
    rounds: Annotated[bool, typer.Option("--rounds", help="Each release of each round, not only each run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the entries of the ledger, oldest first: runs, charges, releases, changes of the budget."""
    place = home_of(participant, home)
    with place.open_for_owner() as ledger:
        lines = history(ledger, _count)
        accounts = [] if as_json else summary(ledger, _policy(place), participant, _count)["accounts"]
    if as_json:
        typer.echo(json.dumps({"schema": 1, "participant": participant, "history": lines}, indent=1))
        return
    print_history(out, participant, lines, accounts, rounds=rounds, last=last)


def set_budget(
    participant: ParticipantName,
    run: Annotated[float | None, typer.Option(help="ε that one run may spend.")] = None,
    lifetime: Annotated[float | None, typer.Option(help="ε that all runs on a data set may spend.")] = None,
    run_delta: Annotated[float | None, typer.Option(help="δ of one run.")] = None,
    lifetime_delta: Annotated[float | None, typer.Option(help="δ of the lifetime.")] = None,
    evaluation_run: Annotated[float | None, typer.Option(help="ε of one run's metrics (evaluation units).")] = None,
    evaluation_lifetime: Annotated[float | None, typer.Option(help="ε of all runs' metrics on a data set.")] = None,
    evaluation_run_delta: Annotated[float | None, typer.Option(help="δ of one run's metrics.")] = None,
    evaluation_lifetime_delta: Annotated[float | None, typer.Option(help="δ of the metrics' lifetime.")] = None,
    home: HomeFolder = None,
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
    tell(f"{place.policy}: the next message honours it; recorded in the ledger.")


def export(participant: ParticipantName, home: HomeFolder = None) -> None:
    """Print the ledger as JSON for an auditor, who recounts chain and ε. A broken chain is refused."""
    place = home_of(participant, home)
    with place.open_for_owner() as ledger:
        data = {**ledger.export(), "accounts": summary(ledger, _policy(place), participant)["accounts"]}
    typer.echo(json.dumps(data, indent=1))
