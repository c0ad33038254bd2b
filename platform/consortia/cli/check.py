"""`consortia check`: shows the plan of a run before anything runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from consortia.cli.options import AsJson, Rounds, ScenarioName
from consortia.common.console import begin, out
from consortia.common.errors import InputError, RefusedError
from consortia.terms.scenario import Scenario, find_scenario, load_scenario

if TYPE_CHECKING:
    from consortia.cli.check_homes import Standing


def check(
    scenario: ScenarioName,
    rounds: Rounds = None,
    epsilon: Annotated[
        list[str] | None, typer.Option(metavar="X|NAME=X", help="Other proposals; inf is non-private.")
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            "--ledger",
            "--home",
            help="Plan with the policies of the homes in this folder, and what their ledgers leave.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the plan of a run: who takes part, what leaves whom, and the noise and ε of each participant.

    With --ledger the participants' own policies and ledgers decide; exit 2 where too few can take part.
    """
    from consortia.planning.known import shown

    with shown():
        _show(scenario, rounds, epsilon, home, as_json)


def _show(scenario: str, rounds: int | None, epsilon: list[str] | None, home: Path | None, as_json: bool) -> None:
    name = find_scenario(scenario).stem
    begin(f"planning {name}: the noise and ε of each participant", as_json=as_json)
    loaded = load_scenario(scenario).with_overrides(rounds=rounds, epsilon=epsilon or ())
    # From here on it takes networks and privacy accounting: a scenario that is refused costs no second.
    from consortia.planning.compatibility import cautions
    from consortia.planning.networks import check_networks, slow_networks
    from consortia.planning.plan import make_plans
    from consortia.planning.secure_sum import exposures
    from consortia.reports.secure_sum import print_exposure
    from consortia.reports.tables import print_plan

    found: list[Standing] = []
    if home is None:
        _check_demonstrations(scenario, loaded)
        plans = make_plans(loaded)
    else:
        from consortia.cli.check_homes import effective, print_standings, refuse_hopeless, standings

        found = [] if loaded.contract.vertical is not None else standings(loaded, home)
        plans = make_plans(effective(loaded, found) if found else loaded)
    check_networks(loaded)
    slow = slow_networks(loaded)
    if as_json:
        data = {
            "scenario": loaded.name,
            "contract_sha256": loaded.contract.sha256(),
            "rounds": loaded.rounds,
            **_agreed(loaded),
            **({} if loaded.chosen is None else {"chosen": loaded.chosen.to_json()}),
            "warnings": [*cautions(loaded), *slow],
            **({"exposure": secure} if (secure := exposures(loaded)) else {}),
            **({"homes": [dataclasses.asdict(one) for one in found]} if found else {}),
            "participants": [dataclasses.asdict(plan) for plan in plans] if plans else _vertical().describe(loaded),
        }
        typer.echo(json.dumps(data, indent=1))
        if found:
            refuse_hopeless(loaded, found)
        return
    if loaded.contract.vertical is not None:
        _vertical().print_plan(out, loaded)
        return
    print_plan(out, loaded, plans)
    for caution in slow:
        out.print(f"[yellow]warning[/] {escape(caution)}")
    print_exposure(out, loaded)
    if found and home is not None:
        print_standings(out, found, home)
        refuse_hopeless(loaded, found)


def _check_demonstrations(scenario: str, loaded: Scenario) -> None:
    """Refuse a demonstration policy that a run would refuse, a δ above 1/declared_units for instance."""
    from consortia.engines.demonstration import demo_policy_file
    from consortia.terms.policy import Proposal, check_unit, policy_or_input_error

    for participant in loaded.roster:
        if (file := demo_policy_file(scenario, participant.name)).is_file():
            policy = policy_or_input_error(file, simulation=True)
            if (terms := policy.dataset.get(participant.dataset)) is not None:
                try:
                    check_unit(terms, Proposal.to(participant))
                except RefusedError as error:
                    raise InputError(f"{participant.name}: {error.detail}") from None


def _agreed(scenario: Scenario) -> dict[str, Any]:
    """Return the strategy, or what each industry with terms of its own learns by."""
    from consortia.planning.compatibility import fits_with

    if not scenario.contract.by_industry:
        return {"strategy": {"name": scenario.contract.strategy.name, "fits_with": fits_with(scenario)}}
    terms = {next(iter(part.contract.industries)): part for part in scenario.parts()}
    return {
        "industries": {
            name: {"learner": p.contract.learner, "trust": p.contract.trust, "rounds": p.contract.rounds, **_agreed(p)}
            for name, p in terms.items()
        }
    }


def _vertical() -> ModuleType:
    from consortia.vertical import setup  # it brings scikit-learn

    return setup
