"""Checks whether secure sums fit a roster, and shows what they are worth."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from consortia.coordinator.aggregation import weights_of
from consortia.planning.known import known
from consortia.terms.costs import updates_event
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario
from consortia.terms.settle import sigma_of
from privacy.events import PoissonGaussian
from privacy.secure_sum.accounting import Exposure, exposure
from privacy.secure_sum.sharing import threshold


def problems(scenario: Scenario, group: str, participants: list[RosterParticipant], where: str) -> list[str]:
    """Return one sentence for every reason why the members of a group cannot be summed."""
    contract = scenario.contract
    if contract.trust != "aggregate":
        return []
    terms = contract.secure_terms
    found = []
    if len(participants) < terms.least:
        found.append(
            f"contract.secure: wanted at least {terms.least} members in {where} (min_cohort {terms.min_cohort}; "
            f"{terms.colluders} colluders and {terms.drops} drops must leave two shares of noise), "
            f"got {len(participants)}: "
            "the sum of two is the other's update; "
            'take trust = "local" with local noise, scope "private", or add participants to the roster'
        )
    members = len(scenario.roster)
    if terms.drops and members - terms.drops < (quorum := threshold(members, terms.colluders)):
        found.append(
            f"contract.secure.drops: wanted at most {max(0, members - quorum)}, since {quorum} of {members} must agree "
            f'on what is opened, got {terms.drops}; take mode = "one", where a lost reply is a new attempt'
        )
    if open_ended := [participant.name for participant in participants if participant.non_private]:
        found.append(
            f"contract.trust: wanted a finite epsilon of every member of a secure sum in {where}, got "
            f"{', '.join(open_ended)} with inf: without noise the sum of all rounds may give a single update away"
        )
    sizes = [float(participant.units) for participant in participants]
    heaviest = max(sizes) / sum(sizes)
    if len(participants) >= terms.least and max(weights_of(contract, participants)) < heaviest - 1e-9:
        found.append(
            f"contract.strategy.weight_cap: wanted none that binds in {where}, since every unit counts alike in one "
            f"sum, got {contract.strategy.weight_cap:g} with a member of {heaviest:.3g}; raise it or leave it out"
        )
    return found


def exposures(scenario: Scenario) -> dict[str, dict[str, Any]]:
    """Return epsilon of the run against the coordinator and 0, t and n - 1 colluders, by participant.

    The smallest of a participant's cohorts counts, less the drops that the noise covers. The budget is charged at t.
    """
    contract = scenario.contract
    if contract.by_industry:
        return {name: found for part in scenario.parts() for name, found in exposures(part).items()}
    if contract.trust != "aggregate":
        return {}
    scopes = contract.scopes.named
    out = {}
    for participant in scenario.roster:
        sigma = sigma_of(contract, participant)
        if sigma is None:
            continue
        sizes = [len(scenario.roster)] if "consortium" in scopes else []
        if "industry" in scopes:
            sizes.append(sum(other.industry == participant.industry for other in scenario.roster))
        terms = contract.secure_terms
        count = max(1, min(terms.cohorts, min(sizes) // terms.least))
        rules = contract.industries[participant.industry]
        event = updates_event(contract, rules, sigma, contract.rounds)
        out[participant.name] = asdict(
            _exposure(event, min(sizes) // count - terms.drops, terms.colluders, participant.delta)
        )
    return out


def _exposure(event: PoissonGaussian, cohort: int, colluders: int, delta: float) -> Exposure:
    def counted() -> tuple[float, ...]:
        found = exposure(event, cohort, colluders, delta)
        return found.nobody, found.promised, found.all_others

    nobody, promised, all_others = known(["exposure", event.to_json(), cohort, colluders, delta], counted, 3)
    return Exposure(nobody, promised, all_others, colluders, cohort, delta)


def sentence(scenario: Scenario) -> str:
    """Return what `consortia check` says about the trust of a scenario, empty for local noise without a choice."""
    if scenario.contract.trust != "aggregate":
        return ""
    terms = scenario.contract.secure_terms
    return (
        f"trust: aggregate. The coordinator sees sums of at least {terms.least_open} participants, never one update; "
        f"the budget is charged against it and {terms.colluders} colluding members. A member that lies within the clip "
        "is not stopped: where members are not trusted to be honest, "
        'take trust = "local" with a robust strategy (median, trimmed-mean, krum, ...), which hidden updates exclude.'
    )
