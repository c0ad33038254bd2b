"""`consortia budget show|history|set|export`: a participant reads its ledger and sets its own budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import tomlkit
import typer

from consortia.common.console import out
from consortia.common.environment import default_root
from consortia.common.errors import InputError
from consortia.participant import ledger_witness
from consortia.participant.account import history, summary
from consortia.participant.home import Home
from consortia.reports.accounts import print_accounts, print_history
from consortia.terms.policy import Policy, parse_policy, policy_or_input_error
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
    trained = {
        ("run", "epsilon"): run,
        ("lifetime", "epsilon"): lifetime,
        ("run", "delta"): run_delta,
        ("lifetime", "delta"): lifetime_delta,
    }
    evaluated = {
        ("run", "epsilon"): evaluation_run,
        ("lifetime", "epsilon"): evaluation_lifetime,
        ("run", "delta"): evaluation_run_delta,
        ("lifetime", "delta"): evaluation_lifetime_delta,
    }
    if all(value is None for value in [*trained.values(), *evaluated.values()]):
        raise InputError(
            "budget set: wanted --run, --lifetime, --evaluation-run, --evaluation-lifetime or the -delta of one of "
            "them, got none"
        )
    place = home_of(participant, home)
    before = policy_or_input_error(place.policy, simulation=True)
    document: Any = tomlkit.parse(place.policy.read_text(encoding="utf-8-sig"))
    _change(document["budget"], trained)
    if any(value is not None for value in evaluated.values()):
        if before.budget.evaluation is None:
            document["budget"]["evaluation"] = _new_evaluation(document["budget"], evaluated)
        _change(document["budget"]["evaluation"], evaluated)
    text = tomlkit.dumps(document)
    after = parse_policy(text, f"{place.policy} with the new budget")  # refused before anything is written
    with open_ledger(place) as ledger:
        ledger_witness.note_budget(ledger, before)
        place.write_policy(text)
        ledger_witness.note_budget(ledger, after)
    data: dict[str, Any] = {
        "schema": 1,
        "participant": participant,
        "policy": str(place.policy),
        "before": before.budget.model_dump(mode="json"),
        "after": after.budget.model_dump(mode="json"),
        "units": {name: terms.unit for name, terms in after.dataset.items()},
    }
    if as_json:
        typer.echo(json.dumps(data, indent=1))
        return
    _print_change(data)
    out.print(f"{place.policy}: the next message honours it; recorded in the ledger.", highlight=False, soft_wrap=True)


def _change(account: Any, wanted: dict[tuple[str, str], float | None]) -> None:
    for (horizon, name), value in wanted.items():
        if value is not None:
            account[horizon][name] = value


def _new_evaluation(budget: Any, wanted: dict[tuple[str, str], float | None]) -> Any:
    """Return a first budget of the evaluation units; what it costs has no default."""
    if wanted["run", "epsilon"] is None or wanted["lifetime", "epsilon"] is None:
        raise InputError(
            "budget set: the policy has no budget.evaluation yet: wanted --evaluation-run and --evaluation-lifetime, "
            "got one of them"
        )
    account = tomlkit.table()
    for horizon in ("run", "lifetime"):
        line = tomlkit.inline_table()
        line.update({"epsilon": wanted[horizon, "epsilon"], "delta": budget[horizon]["delta"]})
        account[horizon] = line
    return account


def _print_change(data: dict[str, Any]) -> None:
    units = ", ".join(sorted(set(data["units"].values())))
    before, after = data["before"], data["after"]
    raised = False
    for name, old, new in (("", before, after), ("evaluation ", before["evaluation"], after["evaluation"])):
        for horizon in ("run", "lifetime") if new is not None else ():
            was = f"ε {old[horizon]['epsilon']:g} at δ {old[horizon]['delta']:g}" if old else "nothing"
            out.print(
                f"{name}{horizon}: {was} -> ε {new[horizon]['epsilon']:g} at δ {new[horizon]['delta']:g} "
                f"(add/remove one unit: {units})",
                highlight=False,
            )
        raised |= old is not None and new["lifetime"]["epsilon"] > old["lifetime"]["epsilon"]
    if raised:
        out.print("Raised: what was promised for this data before no longer holds; the ledger says so from now on.")


def export(participant: Participant, home: HomeOption = None) -> None:
    """Print the ledger as JSON for an auditor, who recounts chain and ε. A broken chain is refused."""
    place = home_of(participant, home)
    with open_ledger(place) as ledger:
        data = {**ledger.export(), "accounts": summary(ledger, _policy(place), participant)["accounts"]}
    typer.echo(json.dumps(data, indent=1))
