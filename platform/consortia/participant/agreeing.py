"""What a participant agrees to when it accepts a contract: its terms in words, and what signing or withdrawing leaves.

The command `consortia agree` and the page of `consortia dashboard --allow-changes` both come here, so both sign, list
and note the same.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final

from consortia.common import acts
from consortia.common.errors import InputError, RefusedError
from consortia.common.strict import parse
from consortia.participant import agreement, contract_list
from consortia.participant.home import Home
from consortia.participant.identity import make_identity
from consortia.terms.contract import Contract
from consortia.terms.policy import Policy, Proposal, check_unit
from consortia.terms.scenario import Scenario
from consortia.trust.passport.statement import Agreement
from privacy.ledger import Budget

__all__ = ["agreement_of", "sign_and_list", "take_back", "terms_in_words", "terms_of", "wants_metrics_budget"]

_SEES: Final = {
    "local": "the coordinator sees each noisy release by name; the other participants see the model made of them",
    "aggregate": "the coordinator and the other participants see sums over the participants only",
    "coordinator": "the coordinator sees each change without noise; whoever gets the model sees it with noise",
}
_SHOWN: Final = 10


def terms_of(home: Home, policy: Policy, loaded: Scenario) -> dict[str, Any]:
    """Return what a run of the contract may take of this participant under its policy of now.

    Raises
    ------
    InputError
        When the roster does not name the participant, or the policy cannot serve what the roster proposes.
    """
    try:
        line = loaded.participant(home.participant)
    except KeyError:
        raise InputError(f"{loaded.name}: wanted {home.participant} in its roster, got no such participant") from None
    contract, proposal = loaded.contract, Proposal.to(line)
    if proposal.dataset not in policy.dataset:
        raise InputError(f"{home.policy}: wanted dataset.{proposal.dataset}, which the roster names, got none")
    terms = policy.dataset[proposal.dataset]
    try:
        check_unit(terms, proposal)
        cost = _cost(policy, contract, proposal)
    except RefusedError as error:
        raise InputError(error.detail) from None
    part = contract if contract.vertical else contract.of(line.industry)
    try:
        metrics = None if part.vertical else agreement.measured(policy, part, line.industry)
    except RefusedError as error:
        raise InputError(f"{home.policy}: {error.detail}") from None
    stated = {
        "participant": home.participant,
        "scenario": loaded.name,
        "contract_sha256": contract.sha256(),
        "dataset": proposal.dataset,
        "unit": terms.unit,
        "epsilon": None if cost is None else cost.epsilon,
        "delta": proposal.delta if cost is None else cost.delta,
        "releases": part.vertical.releases_of(home.participant) if part.vertical else part.releases,
        "trust": part.trust,
        "others": [each.name for each in loaded.roster if each.name != home.participant],
    }
    return stated if metrics is None else {**stated, "metrics": metrics.model_dump()}


def _cost(policy: Policy, contract: Contract, proposal: Proposal) -> Budget | None:
    """Return what is signed of the training units; None where something leaves without noise.

    A partner of a vertical run signs what its own policy allows a run: nobody proposes it an ε.
    """
    wanted = agreement.taken(policy, contract, proposal)
    partner = contract.vertical is not None and policy.participant in contract.vertical.partners
    return policy.budget.of(contract).budget() if partner and wanted is not None else wanted


def agreement_of(home: Home, policy: Policy, loaded: Scenario, purpose: str, until: str) -> Agreement:
    """Return the agreement that is to be signed.

    Raises
    ------
    InputError
        For a demonstration policy, as `terms_of`, without a purpose, for a day that is none or over.
    """
    if policy.demo:
        raise InputError(
            f"{home.policy}: wanted a participant's own policy, got a demonstration policy, which agrees to every "
            "contract by itself, in simulations only"
        )
    terms = terms_of(home, policy, loaded)
    stated = purpose or (loaded.contract.vertical.purpose if loaded.contract.vertical else "")
    if not stated:
        raise InputError("--purpose: wanted a sentence that says for what the result may be used, got none")
    return parse(Agreement, {**terms, "purpose": stated, "until": _day(until)}, "agreement")


def terms_in_words(terms: Mapping[str, Any], policy: Policy, loaded: Scenario) -> list[str]:
    """Return a line for each question; purpose and last day where the terms have them."""
    epsilon = "∞: nothing is promised (non-private)" if terms["epsilon"] is None else f"{terms['epsilon']:g} at most"
    vertical = loaded.contract.vertical
    if vertical and terms["participant"] in vertical.partners:
        scores = vertical.scores_epsilon
        epsilon = (
            "∞: scores are disclosed as they are"
            if scores is None
            else f"{epsilon} (policy); its scores cost {scores:g} under this contract"
        )
    life, others = policy.budget.lifetime, ", ".join(terms["others"][:_SHOWN])
    more = len(terms["others"]) - _SHOWN
    seen = "see docs/guarantees.md, Vertical mode" if vertical else _SEES[terms["trust"]]
    if loaded.contract.keeps_updates:
        seen += "; the coordinator keeps each noisy update with the run"
        seen += ", and nobody can leave it" if loaded.contract.grows else ", until somebody leaves it"
    units = "; each unit is in one release, and later ones use new units alone" if loaded.contract.grows else ""
    lines = [
        f"what leaves:  {', '.join(terms['releases'])}, of data set {terms['dataset']}; nothing else{units}",
        f"to whom:      {seen}",
        f"together with: {others or 'nobody'}{f' and {more} more' if more > 0 else ''}; who takes part may change",
    ]
    if "purpose" in terms:
        until = terms["until"]
        lines += [
            f"for what:     {terms['purpose']}",
            f"until when:   {until or 'withdrawn'}{'' if until is None else ', that day included'}",
        ]
    return [
        *lines,
        f"for which ε:  {epsilon}, δ {terms['delta']:g}, unit {terms['unit']}, horizon: each run of this contract",
        *_metrics_words(terms.get("metrics"), terms["unit"], policy),
        f"all together: ε {life.epsilon:g} at most, δ {life.delta:g}, horizon: lifetime of the data set (policy)",
    ]


def _metrics_words(metrics: Mapping[str, Any] | None, unit: str, policy: Policy) -> list[str]:
    """Return what released metrics may cost the evaluation units, in a line or two; nothing where none leaves."""
    if metrics is None:
        return []
    by = "" if metrics["by"] is None else f", told apart by {metrics['by']}"
    if metrics["epsilon"] is None or policy.budget.evaluation is None:
        return [f"of metrics:   ε ∞: metrics leave without noise{by}"]
    life = policy.budget.evaluation.lifetime
    whose = f"unit {unit} of the evaluation rows{by}"
    return [
        f"of metrics:   ε {metrics['epsilon']:g} at most, δ {metrics['delta']:g}, {whose}",
        f"all metrics:  ε {life.epsilon:g} at most, δ {life.delta:g}, horizon: lifetime of these rows (policy)",
    ]


def wants_metrics_budget(policy: Policy, contract: Contract) -> bool:
    """Return whether the contract wants metrics under DP that the policy has no budget for: its runs are refused."""
    industries = {terms.industry for terms in policy.dataset.values()} & contract.industries.keys()
    metrics = {contract.of(industry).evaluation.metrics for industry in industries}
    return "dp" in metrics and policy.budget.evaluation is None


def sign_and_list(home: Home, signed: Agreement, *, shown: str | None = None) -> str:
    """Sign an agreement, note it, and put its contract into the list of signed ones; return its SHA-256.

    `shown` is the policy's text that its owner decided on; with another one nothing is signed.
    """
    contract_list.check_unchanged(home, home.policy.read_text(encoding="utf-8-sig"), shown)
    entry = f"sha256:{signed.contract_sha256}"
    with acts.noted(home.kept, "contract.sign", entry):
        make_identity(home)
        with home.open_for_owner() as ledger:
            digest = agreement.sign(home, ledger, signed)
        # Last: without it nothing is accepted.
        contract_list.rewrite(home, entry, listed=True, signed=True, shown=shown)
    return digest


def take_back(home: Home, contract_sha256: str, *, shown: str | None = None) -> None:
    """Take a contract off the list, end its agreement and note that; InputError where there is no agreement."""
    agreement.check_there(home, contract_sha256)
    entry = f"sha256:{contract_sha256}"
    with acts.noted(home.kept, "contract.withdraw", entry):
        contract_list.rewrite(home, entry, listed=False, shown=shown)  # first: nothing is accepted
        with home.open_for_owner() as ledger:
            agreement.withdraw(home, ledger, contract_sha256)


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
