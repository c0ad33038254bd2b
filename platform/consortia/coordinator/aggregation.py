"""Computes the next shared parameters from validated replies and public numbers.

Weights, bounds and steps come from the contract and the roster. Two numbers of a reply have an influence: a declared
sigma under `weighting = "information"`, and a released size under `weighting = "noised"`. Each can only lower a weight.
A claim of 1e12 rows counts as much as the roster declares.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from consortia.coordinator.checkpoint import Checkpoint
from consortia.messages.size_release import solve_sigma
from consortia.terms.contract import Contract
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import LARGEST, LOSS, State, group_of
from strategies.arithmetic import capped_weights, weighted_mean
from strategies.base import Controlled, Strategy, TakesTurns, Update
from strategies.fednova import effective_steps
from strategies.information import flat_change, information_weights, noise_variance
from strategies.norm_bound import honest_norm


def weights_of(contract: Contract, participants: Iterable[RosterParticipant]) -> list[float]:
    """Return the capped weights of the participants of one group, as far as they are known before a run."""
    participants = list(participants)
    terms = contract.strategy
    if terms.weighting == "information":
        nothing = [torch.zeros(0, dtype=torch.float64)] * len(participants)
        return information_weights(
            nothing, _variances(contract, participants, {}), _sizes(participants), terms.weight_cap
        )
    return capped_weights(
        [1.0] * len(participants) if terms.weighting == "equal" else _sizes(participants), terms.weight_cap
    )


def _sizes(participants: Iterable[RosterParticipant]) -> list[float]:
    return [float(participant.units) for participant in participants]


def round_weights(
    contract: Contract,
    participants: list[RosterParticipant],
    current: State,
    states: list[State],
    declared: Mapping[str, float],
    sizes: Mapping[str, int],
    number: int = 1,
) -> list[float]:
    """Return the weights of one group's replies in round `number`, which sum to one.

    Parameters
    ----------
    current, states : what was sent, and each reply; read under `weighting = "information"` alone, and of these only
        how they differ (of a gradient strategy the replies alone).
    declared, sizes : see `aggregate`.
    """
    if contract.strategy.weighting == "noised":
        most = {participant.name: contract.split.training_units(participant.units) for participant in participants}
        counts = [float(min(sizes.get(name, units), units)) for name, units in most.items()]
        return capped_weights(counts, contract.strategy.weight_cap)
    if contract.strategy.weighting != "information":
        return weights_of(contract, participants)
    gradient = contract.strategy.strategy().fit.gradient
    start = {name: torch.zeros_like(tensor) for name, tensor in current.items()} if gradient else current
    changes = [flat_change(start, state) for state in states]
    variances = _variances(contract, participants, declared, number)
    return information_weights(changes, variances, _sizes(participants), contract.strategy.weight_cap)


def _variances(
    contract: Contract, participants: Iterable[RosterParticipant], declared: Mapping[str, float], number: int = 1
) -> list[float]:
    """Return the noise variance of every participant's update, per coordinate.

    sigma is the declared value, but at least the one that the participant's proposal needs. A participant whose policy
    allows less declares more noise and is believed. A participant that declares too little noise gets the weight of its
    proposal.
    """
    gradient = contract.strategy.strategy().fit.gradient
    variances = []
    for participant in participants:
        rules = contract.industries[participant.industry]
        variances.append(
            noise_variance(
                noise_multiplier=max(_proposed_sigma(contract, participant), declared.get(participant.name, 0.0)),
                clip=rules.clip,
                learning_rate=1.0 if gradient else rules.rate(number, contract.rounds),
                steps=rules.shared_steps,
                sampling_rate=rules.sampling_rate,
                units=contract.split.training_units(participant.units),
                momentum=rules.momentum,
            )
        )
    return variances


def _proposed_sigma(contract: Contract, participant: RosterParticipant) -> float:
    """Return the noise multiplier that the participant's proposal needs for the whole run; 0 if it is non-private."""
    if participant.non_private:
        return 0.0
    return solve_sigma(contract, contract.industries[participant.industry], participant.epsilon, participant.delta)


def outweighed(strategy: Strategy, weights: Sequence[float]) -> bool:
    """Return whether the possible attackers can have half of the weight or more, if the strategy depends on that."""
    heaviest = sorted(weights, reverse=True)[: attackers_of(strategy)]
    return strategy.fit.weights == "minority" and sum(heaviest) >= 0.5 - 1e-9


def attackers_of(strategy: Strategy) -> int:
    """Return how many attackers a robust strategy tolerates; 0 for other strategies."""
    return int(getattr(strategy, "attackers", 0))


def aggregate(
    scenario: Scenario,
    strategy: Strategy,
    state: Checkpoint,
    accepted: Mapping[str, State],
    declared: Mapping[str, float] = MappingProxyType({}),
    sizes: Mapping[str, int] = MappingProxyType({}),
) -> tuple[dict[str, State], dict[str, State], list[str]]:
    """Aggregate each group.

    Participants are sorted by name, so the order of arrival does not change the result.

    Parameters
    ----------
    accepted : dict of str to State
        Validated replies by participant.
    declared : dict of str to float
        Noise multipliers that the replies declared. They can only lower a weight.
    sizes : dict of str to int
        Numbers of training units that were released with noise. They can only lower a weight.

    Returns
    -------
    groups, memory : dict of str to State
    kept : list of str
        Groups that keep their parameters, because fewer answered than the strategy needs.
    """
    contract = scenario.contract
    groups: dict[str, State] = {}
    memory: dict[str, State] = {}
    kept: list[str] = []
    for group, current in state.groups.items():
        members = members_of(scenario, group, current)
        participants = [
            participant
            for participant in members
            if participant.name in accepted and set(current) <= set(accepted[participant.name])
        ]
        before = state.memory.get(group, {})
        states = [{p: accepted[participant.name][p] for p in current} for participant in participants]
        number = state.round + 1
        weights = (
            round_weights(contract, participants, current, states, declared, sizes, number) if participants else []
        )
        shares = dict(zip((s.name for s in members), weights_of(contract, members), strict=True)) if members else {}
        if len(participants) < max(1, strategy.minimum_participants) or outweighed(strategy, weights):
            groups[group], memory[group] = current, before
            kept.append(group)
            continue
        updates = [
            Update(
                participant.name,
                reply,
                weight,
                bound=honest_bound(contract, participant, current, number) if strategy.fit.bound != "no" else math.inf,
                steps=_steps(contract, participant),
                learning_rate=contract.industries[participant.industry].rate(number, contract.rounds),
                share=shares[participant.name],
                loss=float(accepted[participant.name].get(LOSS, math.nan)),
            )
            for participant, reply, weight in zip(participants, states, weights, strict=True)
        ]
        groups[group], memory[group] = strategy.aggregate(current, updates, before)
    return groups, memory, kept


def running_mean(
    contract: Contract, average: Mapping[str, State], number: int, groups: Mapping[str, State]
) -> dict[str, State]:
    """Return the mean of the last `average_last` models after round `number`: post-processing of released models."""
    last = contract.strategy.average_last
    first = max(1, contract.rounds - last + 1)
    if last == 1 or number < first:
        return {}
    if number == first:
        return dict(groups)
    seen = number - first
    return {group: weighted_mean([average[group], new], [seen, 1]) for group, new in groups.items()}


def members_of(scenario: Scenario, group: str, parameters: Iterable[str]) -> list[RosterParticipant]:
    """Return the participants that share the parameters of `group`, sorted by name."""
    names = list(parameters)
    industries = {
        industry
        for industry in {participant.industry for participant in scenario.roster}
        if all(group_of(name, industry, scenario.contract) == group for name in names)
    }
    members = (participant for participant in scenario.roster if participant.industry in industries)
    return sorted(members, key=lambda participant: participant.name)


def controls(scenario: Scenario, strategy: Strategy, state: Checkpoint) -> dict[str, State]:
    """Return what each participant receives besides the model, by name; empty if the strategy sends nothing.

    The values are clipped to what a participant accepts. Otherwise one absurd reply would make every later message
    invalid.
    """
    out: dict[str, State] = {}
    if isinstance(strategy, Controlled):
        for group, current in state.groups.items():
            for participant in members_of(scenario, group, current):
                sent = strategy.control(current, state.memory.get(group, {}), participant.name)
                bounded = {name: tensor.clamp(-LARGEST, LARGEST) for name, tensor in sent.items()}
                out.setdefault(participant.name, {}).update(bounded)
    return out


def turns(scenario: Scenario, strategy: Strategy, number: int, names: Collection[str]) -> list[list[str]]:
    """Return whom to ask in round `number`: lists of names. One participant of each list must answer.

    If parts are shared with the whole consortium, the model visits all participants in turn; otherwise it does so in
    each industry.
    """
    if not isinstance(strategy, TakesTurns):
        return []
    tours: dict[str, list[str]] = {}
    together = "consortium" in scenario.contract.scopes.named
    for participant in sorted(scenario.roster, key=lambda s: s.name):
        tours.setdefault("*" if together else participant.industry, []).append(participant.name)
    asked = [[name for name in strategy.order(number, tour) if name in names] for tour in tours.values()]
    return [tour for tour in asked if tour]


def _steps(contract: Contract, participant: RosterParticipant) -> float:
    rules = contract.industries[participant.industry]
    return effective_steps(rules.shared_steps, rules.momentum)


def honest_bound(
    contract: Contract, participant: RosterParticipant, current: Mapping[str, Tensor], number: int = 1
) -> float:
    """Return the largest norm that an honest change of `current` can have in round `number`; infinite if non-private.

    sigma is that of the proposal, solved for the whole run. A participant whose policy allows less adds more noise than
    that, and its change is clipped. A declared sigma is not used here: an attacker could choose its own bound with it.
    """
    if participant.non_private:
        return math.inf
    rules = contract.industries[participant.industry]
    floats = [t.double().flatten() for t in current.values() if t.is_floating_point()]
    flat = torch.cat(floats or [torch.zeros(0, dtype=torch.float64)])
    return honest_norm(
        clip=rules.clip,
        learning_rate=rules.rate(number, contract.rounds),
        steps=rules.shared_steps,
        noise_multiplier=_proposed_sigma(contract, participant),
        sampling_rate=rules.sampling_rate,
        units=contract.split.training_units(participant.units),
        coordinates=flat.numel(),
        momentum=rules.momentum,
        weight_decay=rules.weight_decay,
        start_norm=float(flat.norm()),
    )
