"""`consortia agree`: shows a participant what it agrees to, in words, and signs it."""

from __future__ import annotations

import datetime
from typing import Annotated, Any

import typer

from consortia.cli.budget_accounts import HomeOption, home_of, open_ledger
from consortia.common.console import out
from consortia.common.errors import InputError, RefusedError
from consortia.common.strict import parse
from consortia.participant import contract_list
from consortia.participant.agreement import measured, sign, taken, withdraw
from consortia.participant.home import Home
from consortia.participant.identity import make_identity
from consortia.terms.contract import Contract
from consortia.terms.policy import Policy, Proposal, check_unit, policy_or_input_error
from consortia.terms.scenario import Scenario, load_scenario
from consortia.trust.passport.statement import Agreement, Measured
from privacy.ledger import Budget

_SEES = {
    "local": "the coordinator sees each noisy release by name; the other participants see the model made of them",
    "aggregate": "the coordinator and the other participants see sums over the participants only",
    "coordinator": "the coordinator sees each change without noise; whoever gets the model sees it with noise",
}


def agree(
    participant: Annotated[str, typer.Argument(help="Name of the participant.")],
    scenario: Annotated[str, typer.Argument(help="Name or path of the scenario whose contract is agreed to.")],
    purpose: Annotated[str, typer.Option(help="For what the result may be used, in a sentence.")] = "",
    until: Annotated[str, typer.Option(help="Last day, YYYY-MM-DD (UTC); without it until withdrawn.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
    withdrawn: Annotated[bool, typer.Option("--withdraw", help="Withdraw the agreement instead.")] = False,
    rounds: Annotated[int | None, typer.Option(help="The contract with another number of rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="The contract with another seed.")] = None,
    home: HomeOption = None,
) -> None:
    """Sign what a run may take of this participant: what leaves, to whom, for what, until when, for which ε."""
    place = home_of(participant, home)
    loaded = load_scenario(scenario).with_overrides(rounds=rounds, seed=seed)
    entry = f"sha256:{loaded.contract.sha256()}"
    policy = policy_or_input_error(place.policy, simulation=True)
    if policy.demo:
        raise InputError(
            f"{place.policy}: wanted a participant's own policy, got a demonstration policy, which agrees to every "
            "contract by itself, in simulations only"
        )
    if withdrawn:
        contract_list.rewrite(place, entry, listed=False)  # first: from here on nothing is accepted
        with open_ledger(place) as ledger:
            withdraw(place, ledger, loaded.contract.sha256())
        _say(f"{participant} withdrew its agreement to {entry}. What was released before cannot be called back.")
        return
    agreement = _agreement(place, policy, loaded, purpose, until)
    for line in _words(agreement, policy, loaded):
        _say(line)
    if not yes and not typer.confirm("Sign this?"):
        raise InputError("agree: wanted yes, got no; nothing was signed")
    make_identity(place)
    with open_ledger(place) as ledger:
        digest = sign(place, ledger, agreement)
    contract_list.rewrite(place, entry, listed=True, signed=True)  # last: without it the contract is not accepted
    _say(f"signed by {participant}: SHA-256 {digest}")


def _agreement(place: Home, policy: Policy, loaded: Scenario, purpose: str, until: str) -> Agreement:
    try:
        line = loaded.participant(place.participant)
    except KeyError:
        raise InputError(f"{loaded.name}: wanted {place.participant} in its roster, got no such participant") from None
    contract, proposal = loaded.contract, Proposal.to(line)
    if proposal.dataset not in policy.dataset:
        raise InputError(f"{place.policy}: wanted dataset.{proposal.dataset}, which the roster names, got none")
    terms = policy.dataset[proposal.dataset]
    try:
        check_unit(terms, proposal)
        cost = _cost(policy, contract, proposal)
    except RefusedError as error:
        raise InputError(error.detail) from None
    stated = purpose or (contract.vertical.purpose if contract.vertical else "")
    if not stated:
        raise InputError("--purpose: wanted a sentence that says for what the result may be used, got none")
    part = contract if contract.vertical else contract.of(line.industry)
    stated_terms: dict[str, Any] = {
        "participant": place.participant,
        "scenario": loaded.name,
        "contract_sha256": contract.sha256(),
        "purpose": stated,
        "until": _day(until),
        "dataset": proposal.dataset,
        "unit": terms.unit,
        "epsilon": None if cost is None else cost.epsilon,
        "delta": proposal.delta if cost is None else cost.delta,
        "releases": part.vertical.releases_of(place.participant) if part.vertical else part.releases,
        "trust": part.trust,
        "others": [each.name for each in loaded.roster if each.name != place.participant],
    }
    try:
        metrics = None if part.vertical else measured(policy, part, line.industry)
    except RefusedError as error:
        raise InputError(f"{place.policy}: {error.detail}") from None
    if metrics is not None:
        stated_terms["metrics"] = metrics.model_dump()
    return parse(Agreement, stated_terms, "agreement")


def _cost(policy: Policy, contract: Contract, proposal: Proposal) -> Budget | None:
    """Return what is signed of the training units; None where something leaves without noise.

    A partner of a vertical run signs what its own policy allows a run: nobody proposes it an ε.
    """
    wanted = taken(policy, contract, proposal)
    partner = contract.vertical is not None and policy.participant in contract.vertical.partners
    return policy.budget.of(contract).budget() if partner and wanted is not None else wanted


def _day(text: str) -> str | None:
    if not text:
        return None
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        raise InputError(f"--until: wanted a day such as 2027-01-31, got {text!r}") from None
    if day < datetime.datetime.now(datetime.UTC).date():
        raise InputError(f"--until: wanted today or a later day, got {text}")
    return day.isoformat()


def _words(agreement: Agreement, policy: Policy, loaded: Scenario) -> list[str]:
    """Return what is signed, a line for each question."""
    epsilon = "∞: nothing is promised (non-private)" if agreement.epsilon is None else f"{agreement.epsilon:g} at most"
    vertical = loaded.contract.vertical
    if vertical and agreement.participant in vertical.partners:
        scores = vertical.scores_epsilon
        epsilon = (
            "∞: scores are disclosed as they are"
            if scores is None
            else f"{epsilon} (policy); its scores cost {scores:g} under this contract"
        )
    life, others = policy.budget.lifetime, ", ".join(agreement.others[:10])
    more = len(agreement.others) - 10
    seen = "see docs/guarantees.md, Vertical mode" if vertical else _SEES[agreement.trust]
    return [
        f"{agreement.participant} agrees to {agreement.scenario}, contract sha256:{agreement.contract_sha256}.",
        f"  what leaves:  {', '.join(agreement.releases)}, of data set {agreement.dataset}; nothing else",
        f"  to whom:      {seen}",
        f"  together with: {others or 'nobody'}{f' and {more} more' if more > 0 else ''}; who takes part may change",
        f"  for what:     {agreement.purpose}",
        f"  until when:   {agreement.until or 'withdrawn'}{'' if agreement.until is None else ', that day included'}",
        f"  for which ε:  {epsilon}, δ {agreement.delta:g}, unit {agreement.unit}, horizon: each run of this contract",
        *_metrics_words(agreement.metrics, agreement.unit, policy),
        f"  all together: ε {life.epsilon:g} at most, δ {life.delta:g}, horizon: lifetime of the data set (policy)",
    ]


def _metrics_words(metrics: Measured | None, unit: str, policy: Policy) -> list[str]:
    """Return what released metrics may cost the evaluation units, in a line or two; nothing where none leaves."""
    if metrics is None:
        return []
    by = "" if metrics.by is None else f", told apart by {metrics.by}"
    if metrics.epsilon is None or policy.budget.evaluation is None:
        return [f"  of metrics:   ε ∞: metrics leave without noise{by}"]
    life = policy.budget.evaluation.lifetime
    return [
        f"  of metrics:   ε {metrics.epsilon:g} at most, δ {metrics.delta:g}, unit {unit} of the evaluation rows{by}",
        f"  all metrics:  ε {life.epsilon:g} at most, δ {life.delta:g}, horizon: lifetime of these rows (policy)",
    ]


def _say(sentence: str) -> None:
    out.print(sentence, markup=False, highlight=False, soft_wrap=True)
