"""`consortia agree`: shows a participant what it agrees to, in words, and signs it."""

from __future__ import annotations

from typing import Annotated

import typer

from consortia.cli.options import HomeFolder, ParticipantName, home_of
from consortia.common.console import tell
from consortia.common.errors import InputError
from consortia.participant.agreeing import agreement_of, sign_and_list, take_back, terms_in_words
from consortia.terms.policy import policy_or_input_error
from consortia.terms.scenario import load_scenario


def agree(
    participant: ParticipantName,
    scenario: Annotated[str, typer.Argument(help="Name or path of the scenario whose contract is agreed to.")],
    purpose: Annotated[str, typer.Option(help="For what the result may be used, in a sentence.")] = "",
    until: Annotated[str, typer.Option(help="Last day, YYYY-MM-DD (UTC); without it until withdrawn.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
    withdrawn: Annotated[bool, typer.Option("--withdraw", help="Withdraw the agreement instead.")] = False,
    rounds: Annotated[int | None, typer.Option(help="The contract with another number of rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="The contract with another seed.")] = None,
    home: HomeFolder = None,
) -> None:
    """Sign what a run may take of this participant: what leaves, to whom, for what, until when, for which ε."""
    place = home_of(participant, home)
    loaded = load_scenario(scenario).with_overrides(rounds=rounds, seed=seed)
    entry = f"sha256:{loaded.contract.sha256()}"
    policy = policy_or_input_error(place.policy, simulation=True)
    if withdrawn and not policy.demo:
        take_back(place, loaded.contract.sha256())
        tell(f"{participant} withdrew its agreement to {entry}. What was released before cannot be called back.")
        return
    agreement = agreement_of(place, policy, loaded, purpose, until)
    tell(f"{participant} agrees to {agreement.scenario}, contract {entry}.")
    for line in terms_in_words(agreement.model_dump(mode="json"), policy, loaded):
        tell(f"  {line}")
    if not yes and not typer.confirm("Sign this?"):
        raise InputError("agree: wanted yes, got no; nothing was signed")
    tell(f"signed by {participant}: SHA-256 {sign_and_list(place, agreement)}")
