"""`consortia budget`: a participant's own ledger. Runs on its side, touches nothing but its folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from consortia.cli import friendly, out
from consortia.deploy.homes import make_home, owned_policy
from consortia.errors import InputError
from consortia.home import Home, default_root
from consortia.policy import Policy, policy_or_input_error
from consortia.report import number
from consortia.scenario import load_scenario
from consortia.strict import read_toml
from privacy.accounting import epsilon
from privacy.errors import PrivacyError
from privacy.ledger import LEDGER_SCHEMA, Ledger, migrate_file

app = typer.Typer(help="Show, make or export a participant's privacy ledger.", no_args_is_help=True)

_Home = Annotated[
    Path | None, typer.Option("--home", help="Folder of the participants; $CONSORTIA_HOME or ~/.consortia.")
]


def _home(name: str, root: Path | None) -> Home:
    return Home(((root or default_root()) / name).resolve(), name)


def _open(home: Home) -> Ledger:
    try:
        return Ledger.open(home.ledger, home.participant)
    except PrivacyError as error:
        raise InputError(str(error)) from None


@app.command(epilog="Example: consortia budget init hospital-a --policy hospital-a.toml")
@friendly
def init(
    participant: Annotated[str, typer.Argument(help="Name of the participant; omit with --scenario.")] = "",
    home: _Home = None,
    policy: Annotated[Path | None, typer.Option(help="Policy file to start from.")] = None,
    scenario: Annotated[
        str, typer.Option(help="Make a home for everyone in this scenario from its demonstration policies.")
    ] = "",
) -> None:
    """Make a participant's home: policy, split key, empty ledger. An existing ledger is never touched."""
    if bool(participant) == bool(scenario):
        raise InputError("budget init: wanted either a participant or --scenario; give exactly one")
    if scenario:
        loaded = load_scenario(scenario)
        for seat in loaded.roster:
            data = owned_policy(scenario, loaded, seat.name)
            _make(_home(seat.name, home), data, f"from the demonstration policy of {loaded.name}; edit it")
        return
    copied: dict[str, Any] | None = None
    if policy is not None:
        found = policy_or_input_error(policy, simulation=True)
        if found.participant != participant:
            raise InputError(
                f"{policy}: participant: wanted {participant!r}, got {found.participant!r}; use its own file"
            )
        copied = read_toml(policy)
    _make(_home(participant, home), copied, "copied; edit it")


def _make(home: Home, policy: dict[str, Any] | None, note: str) -> None:
    make_home(home, policy, note)
    out.print(f"made {home.ledger}", highlight=False, soft_wrap=True)


@app.command(epilog="Example: consortia budget migrate hospital-a")
@friendly
def migrate(participant: Annotated[str, typer.Argument(help="Name of the participant.")], home: _Home = None) -> None:
    """Give a ledger of schema 1 its hash chain. Every row stays."""
    place = _home(participant, home)
    try:
        migrate_file(place.ledger, participant)
    except PrivacyError as error:
        raise InputError(str(error)) from None
    out.print(f"{place.ledger} has schema {LEDGER_SCHEMA} now", highlight=False, soft_wrap=True)


@app.command(epilog="Example: consortia budget allow hospital-a cross-industry --rounds 10")
@friendly
def allow(
    participant: Annotated[str, typer.Argument(help="Name of the participant.")],
    scenario: Annotated[str, typer.Argument(help="Name or path of the scenario whose contract to accept.")],
    rounds: Annotated[int | None, typer.Option(help="The contract with another number of rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="The contract with another seed.")] = None,
    home: _Home = None,
) -> None:
    """Accept a contract: add its hash to the list in the participant's policy."""
    place = _home(participant, home)
    policy = policy_or_input_error(place.policy, simulation=True)
    contract = load_scenario(scenario).with_overrides(rounds=rounds, seed=seed).contract
    entry = f"sha256:{contract.sha256()}"
    if policy.allow.contracts == "any" or entry in policy.allow.contracts:
        out.print(f"{participant} accepts {entry} already", highlight=False, soft_wrap=True)
        return
    listed = json.dumps([*policy.allow.contracts, entry], indent=4)
    text, found = re.subn(
        r"^contracts\s*=\s*\[[^\]]*\]", f"contracts = {listed}", place.policy.read_text(encoding="utf-8"), flags=re.M
    )
    if found != 1:
        raise InputError(f"{place.policy}: allow.contracts: wanted one list, got {found}; add {entry} by hand")
    place.policy.write_text(text, encoding="utf-8")
    out.print(f"{participant} accepts {entry} now", highlight=False, soft_wrap=True)


@app.command(epilog="Example: consortia budget show hospital-a --json")
@friendly
def show(
    participant: Annotated[str, typer.Argument(help="Name of the participant.")],
    home: _Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what was spent on which data set, per run and over its lifetime, and what is left."""
    place = _home(participant, home)
    policy = policy_or_input_error(place.policy, simulation=True) if place.policy.is_file() else None
    with _open(place) as ledger:
        data = _summary(ledger, policy, participant)
    if as_json:
        typer.echo(json.dumps(data, indent=1))
        return
    table = Table(title=f"{participant}: every ε with its horizon (add/remove one unit)")
    for heading in ("data set", "horizon", "unit", "ε spent", "δ", "ε budget", "releases", "abandoned"):
        table.add_column(heading, justify="left" if heading in {"data set", "horizon", "unit"} else "right")
    for line in data["accounts"]:
        table.add_row(
            line["dataset"],
            line["horizon"],
            line["unit"] or "–",
            "∞ (non-private)" if line["non_private"] else number(line["epsilon"]),
            f"{line['delta']:g}",
            number(line["budget"]),
            str(line["releases"]),
            str(line["abandoned"]),
        )
    out.print(table)
    if not data["accounts"]:
        out.print("Nothing was spent yet.")


def _summary(ledger: Ledger, policy: Policy | None, participant: str) -> dict[str, Any]:
    entries = ledger.entries()
    accounts = []
    for dataset in sorted({entry.dataset for entry in entries}):
        mine = [entry for entry in entries if entry.dataset == dataset]
        horizons = [(f"run {run}", [e for e in mine if e.run_id == run]) for run in _in_order(mine)]
        for horizon, group in [*horizons, ("lifetime (PLD estimate)", mine)]:
            events = [event for entry in group for event in entry.events]
            plan = ledger.plan(group[0].run_id)
            life = policy.budget.lifetime if policy else None
            whole = horizon.startswith("lifetime")
            delta = (life.delta if life else 1e-5) if whole else (plan.allowance.delta if plan else 1e-5)
            spent = epsilon(events, delta)
            non_private = spent == float("inf")
            budget = (life.epsilon if life else None) if whole else (plan.allowance.epsilon if plan else None)
            accounts.append(
                {
                    "dataset": dataset,
                    "horizon": horizon,
                    "unit": plan.unit if plan else None,
                    "epsilon": None if non_private else spent,
                    "delta": delta,
                    "budget": None if budget == float("inf") else budget,
                    "non_private": non_private,
                    "releases": len(group),
                    "abandoned": sum(entry.state == "reserved" for entry in group),
                }
            )
    return {"schema": 1, "participant": participant, "relation": "add_or_remove_one", "accounts": accounts}


def _in_order(entries: list[Any]) -> list[str]:
    return list(dict.fromkeys(entry.run_id for entry in entries))


@app.command(epilog="Example: consortia budget export hospital-a > ledger.json")
@friendly
def export(participant: Annotated[str, typer.Argument(help="Name of the participant.")], home: _Home = None) -> None:
    """Print the ledger as JSON for an auditor, who recounts it with dp-accounting."""
    with _open(_home(participant, home)) as ledger:
        typer.echo(json.dumps(ledger.export(), indent=1))
