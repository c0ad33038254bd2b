"""`consortia budget`: shows and changes a participant's own ledger. It runs on the participant's side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from consortia.cli.options import HomeFolder, ParticipantName, home_of
from consortia.common.console import friendly, tell
from consortia.common.errors import InputError
from consortia.common.strict import read_toml
from consortia.deploy.homes import make_home, owned_policy
from consortia.participant import contract_list
from consortia.participant.agreeing import wants_metrics_budget
from consortia.participant.home import Home
from consortia.participant.identity import pin_each_other
from consortia.terms.policy import BY_NAME, Policy, policy_or_input_error
from consortia.terms.scenario import load_scenario
from privacy.errors import PrivacyError
from privacy.ledger import LEDGER_SCHEMA, migrate_file


@friendly
def init(
    participant: Annotated[str, typer.Argument(help="Name of the participant; omit with --scenario.")] = "",
    home: HomeFolder = None,
    policy: Annotated[Path | None, typer.Option(help="Policy file to start from.")] = None,
    scenario: Annotated[
        str,
        typer.Option(
            help="Make a home for everyone in this scenario: with its own policy where one lies there, a demonstration "
            "policy, or one made of the roster."
        ),
    ] = "",
) -> None:
    """Make a participant's home: policy, split key, empty ledger. An existing ledger is never touched."""
    if bool(participant) == bool(scenario):
        raise InputError("budget init: wanted either a participant or --scenario; give exactly one")
    if scenario:
        loaded = load_scenario(scenario)
        for listed in loaded.roster:
            place = home_of(listed.name, home)
            # A policy that its owner put there already is the owner's word.
            kept = place.policy.exists()
            data = None if kept else owned_policy(scenario, loaded, listed.name)
            terms = loaded.contract.of(listed.industry)
            _make(place, data, f"for {loaded.name}; edit it", metrics=terms.evaluation.metrics == "dp")
            if kept:
                told = (
                    f"{listed.name} keeps its own policy; `consortia budget allow {listed.name} {scenario}` accepts it"
                )
                tell(told)
        if any(part.contract.trust == "aggregate" for part in loaded.parts()):
            pin_each_other({listed.name: home_of(listed.name, home) for listed in loaded.roster})
        if loaded.contract.vertical is not None:
            from consortia.vertical.setup import introduce  # it loads scikit-learn and torch

            introduce(loaded, {listed.name: home_of(listed.name, home) for listed in loaded.roster})
        return
    copied: dict[str, Any] | None = None
    if policy is not None:
        found = policy_or_input_error(policy, simulation=True)
        if found.participant != participant:
            raise InputError(
                f"{policy}: participant: wanted {participant!r}, got {found.participant!r}; use its own file"
            )
        copied = read_toml(policy)
    _make(home_of(participant, home), copied, "copied; edit it")


def _make(home: Home, policy: dict[str, Any] | None, note: str, *, metrics: bool = False) -> None:
    make_home(home, policy, note)
    tell(f"made {home.ledger}")
    if metrics and policy_or_input_error(home.policy, simulation=True).budget.evaluation is None:
        _advise(home.participant)


def _advise(participant: str) -> None:
    tell(
        "The contract wants metrics under DP, and the policy has no budget.evaluation to pay for them: every message "
        f"is refused until `consortia budget set {participant} --evaluation-run E --evaluation-lifetime E`"
    )


@friendly
def migrate(participant: ParticipantName, home: HomeFolder = None) -> None:
    """Give a ledger of schema 1 or 2 what it lacks: the hash chain, the table of claims. Every row stays."""
    place = home_of(participant, home)
    try:
        migrate_file(place.ledger, participant)
    except PrivacyError as error:
        raise InputError(str(error)) from None
    tell(f"{place.ledger} has schema {LEDGER_SCHEMA} now")


@friendly
def allow(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="PARTICIPANT... SCENARIO", help="Participants, then name or path of the scenario to accept."
        ),
    ],
    rounds: Annotated[int | None, typer.Option(help="The contract with another number of rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="The contract with another seed.")] = None,
    by_name: Annotated[
        bool,
        typer.Option("--by-name", help="Accept the scenario by its name, however it changes: in simulations only."),
    ] = False,
    withdrawn: Annotated[
        bool, typer.Option("--withdraw", help="Take the contract off the list instead; `agree --withdraw` if signed.")
    ] = False,
    home: HomeFolder = None,
) -> None:
    """Accept a contract: add its hash to the list in each participant's policy. The ledger notes it."""
    if len(names) < 2:
        raise InputError(f"budget allow: wanted participants and then a scenario, got {' '.join(names)} alone")
    *participants, scenario = names
    loaded = load_scenario(scenario).with_overrides(rounds=rounds, seed=seed)
    contract = loaded.contract
    entry = f"{BY_NAME}{loaded.name}" if by_name else f"sha256:{contract.sha256()}"
    places = [home_of(name, home) for name in participants]
    policies = [policy_or_input_error(place.policy, simulation=True) for place in places]  # all, before one is written
    if withdrawn:
        for place, policy in zip(places, policies, strict=True):
            _take_off(place, policy, entry)
        return
    for place, policy in zip(places, policies, strict=True):
        _accept(place, policy, entry)
        if policy.allow.signed:
            told = f"{place.participant} counts signed contracts only: `consortia agree {place.participant} {scenario}`"
            tell(told)
        if wants_metrics_budget(policy, contract):
            _advise(place.participant)


def _accept(place: Home, policy: Policy, entry: str) -> None:
    """Write the entry into allow.contracts, and the list where the policy has none; the rest stays as it is."""
    told = f"{place.participant} accepts {entry}"
    if policy.allow.contracts == "any" or entry in policy.allow.contracts:
        tell(f"{told} already")
        return
    contract_list.accept(place, entry)
    tell(f"{told} now")


def _take_off(place: Home, policy: Policy, entry: str) -> None:
    if policy.allow.contracts == "any" or entry not in policy.allow.contracts:
        got = "all of them" if policy.allow.contracts == "any" else "a list without it"
        raise InputError(f"{place.policy}: allow.contracts: wanted {entry} in the list, got {got}")
    contract_list.remove(place, entry)
    tell(f"{place.participant} accepts {entry} no longer")
