"""Checks whether a strategy fits a roster, from public numbers alone."""

from __future__ import annotations

import math

from consortia.common.errors import InputError
from consortia.coordinator.aggregation import attackers_of, outweighed, weights_of
from consortia.planning.metrics import kept_home
from consortia.planning.secure_sum import problems
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario
from strategies.base import Asynchronous, Clusters, LocalHalf, Strategy, TakesTurns


def groups_of(scenario: Scenario) -> dict[str, list[RosterParticipant]]:
    """Return who is aggregated with whom: '*' for the whole consortium, else by industry."""
    scopes = scenario.contract.scopes.named
    groups: dict[str, list[RosterParticipant]] = {}
    for participant in scenario.roster:
        if "consortium" in scopes:
            groups.setdefault("*", []).append(participant)
        if "industry" in scopes:
            groups.setdefault(participant.industry, []).append(participant)
    return groups


def check_fit(scenario: Scenario) -> None:
    """Refuse what the strategy's `Fit` does not allow.

    Raises
    ------
    InputError
        With one line for each group and reason.
    """
    problems = [
        problem
        for part in scenario.parts()
        for group, participants in sorted(groups_of(part).items())
        for problem in _problems(part, group, participants)
    ]
    if problems:
        raise InputError(*problems)


def _problems(scenario: Scenario, group: str, participants: list[RosterParticipant]) -> list[str]:
    terms = scenario.contract.strategy
    strategy = terms.strategy()
    fit = strategy.fit
    attackers = attackers_of(strategy)
    where = f"contract.strategy.name: {terms.name} in {'the consortium' if group == '*' else 'industry ' + group}"
    found = problems(scenario, group, participants, "the consortium" if group == "*" else f"industry {group}")
    if len(participants) < strategy.minimum_participants:
        found.append(
            f"{where}: wanted at least {strategy.minimum_participants} participants"
            + (f" for {attackers} attacker(s)" if attackers else "")
            + f", got {len(participants)}; take 'fedavg', or add participants to the roster"
        )
    most = scenario.contract.participations * len(participants)
    needed = scenario.contract.rounds if isinstance(strategy, TakesTurns) else getattr(strategy, "buffer_size", 1)
    if most < needed:
        found.append(
            f"{where}: wanted at least {needed} participations, got {len(participants)} participants with at most "
            f"{scenario.contract.participations} each; set a larger contract.max_participations"
        )
    weights = weights_of(scenario.contract, participants)
    sizes = "noised" if terms.weighting == "noised" else "declared"  # noised ones do not stay equal
    if fit.weights == "equal" and (sizes == "noised" or max(weights) - min(weights) > 1e-9):
        found.append(
            f"{where}: wanted equal weights, since every participant has one vote, got {sizes} sizes; "
            'set weighting = "equal"'
        )
    if len(participants) > 2 * attackers and outweighed(strategy, weights):
        heaviest = sum(sorted(weights, reverse=True)[:attackers])
        found.append(
            f"{where}: wanted the {attackers} heaviest participant(s) to weigh less than 0.5 together, got "
            f'{heaviest:.3g}; set weighting = "equal" or a lower weight_cap'
        )
    open_ended = (
        [participant.name for participant in participants if participant.non_private] if fit.bound == "needs" else []
    )
    if open_ended:
        found.append(
            f"{where}: wanted a bound of every honest update, got non-private participants "
            f"({', '.join(open_ended)}), whose gradients nobody clips; set options.relative or options.norm"
        )
    if isinstance(strategy, Clusters) and terms.average_last > 1:
        found.append(
            f"{where}: wanted average_last = 1, since each cluster has its own model, got {terms.average_last}"
        )
    if isinstance(strategy, Clusters) and terms.weighting == "information":
        found.append(f'{where}: wanted weighting = "declared" or "equal", got "information", which assumes one model')
    private = [participant.name for participant in participants if not participant.non_private] if fit.loss else []
    if private:
        found.append(
            f"{where}: wanted non-private participants, since it needs an exact training loss, got budgets of "
            f"{', '.join(private)}; take 'fedavg'"
        )
    return found


def fits_with(scenario: Scenario) -> dict[str, str]:
    """Return what the strategy fits with, in words: weights, DP, secure sums, rounds in which some are missing."""
    strategy = scenario.contract.strategy.strategy()
    fit, attackers = strategy.fit, attackers_of(strategy)
    weights = {"any": "any", "equal": "equal only", "minority": f"the {attackers} heaviest below one half"}[fit.weights]
    dp = "no: it needs an exact training loss" if fit.loss else "yes"
    if fit.bound == "needs":
        dp = "only: its bound comes from clip and noise"
    least = strategy.minimum_participants
    missing = "yes" if least == 1 else f"while {least} of a group answer; otherwise it keeps its model"
    return {
        "weights": weights,
        "differential privacy": dp,
        "secure sum": _summed(strategy),
        "missing replies": _missing(strategy, missing),
    }


def _summed(strategy: Strategy) -> str:
    if isinstance(strategy, LocalHalf):
        return "no: it changes local steps"
    return "yes" if strategy.fit.sum_only else "no: it looks at each update"


def _missing(strategy: Strategy, otherwise: str) -> str:
    if isinstance(strategy, Asynchronous):
        return "nobody waits for them; late ones count by their staleness"
    return "one participant a round" if isinstance(strategy, TakesTurns) else otherwise


def cautions(scenario: Scenario) -> list[str]:
    """Return what may be run but should be known before: one line for each group and reason."""
    if scenario.contract.by_industry:
        return [caution for part in scenario.parts() for caution in cautions(part)]
    strategy = scenario.contract.strategy.strategy()
    attackers, least = attackers_of(strategy), strategy.minimum_participants
    found = []
    for group, participants in sorted(groups_of(scenario).items()):
        where = f"{scenario.contract.strategy.name} in {'the consortium' if group == '*' else 'industry ' + group}"
        spare = len(participants) - least
        if attackers and 0 <= spare < attackers:
            found.append(
                f"{where}: {len(participants)} participants, and it needs {least}: {spare + 1} that send nothing "
                "usable stop its training; take a strategy that needs fewer, or share with more"
            )
        private = [participant.name for participant in participants if not participant.non_private]
        rounds, most = scenario.contract.rounds, scenario.contract.participations
        turns = math.ceil(rounds / len(participants))
        if isinstance(strategy, TakesTurns) and turns < most and private:
            found.append(
                f"{where}: sigma is solved for {most} participations, and each of {len(participants)} trains "
                f"in about {turns} of {rounds} rounds: more noise than its epsilon asks for; "
                f"set contract.max_participations = {turns}, "
                "or a little more where some may be absent"
            )
        size = getattr(strategy, "buffer_size", 1)
        if isinstance(strategy, Asynchronous) and not strategy.waits_for_step and len(participants) > 1:
            without = (len(participants) - 1) * most // size
            if rounds > without:
                found.append(
                    f"{where}: {rounds} steps need the replies of all; without the slowest there are {without}: the "
                    f"end waits for it. Set contract.rounds = {without}, or a larger max_participations"
                )
    return found + kept_home(scenario)
