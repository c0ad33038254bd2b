"""Chooses the model of each participant: its group's, or its cluster's.

Everything here is computed from released updates, so it is post-processing. The coordinator's record names the members
of each cluster. A participant only receives its own model.
"""

from __future__ import annotations

from collections.abc import Mapping

from consortia.coordinator.aggregation import members_of
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import State, for_participant
from strategies.base import Clusters, Strategy


def models(
    scenario: Scenario, strategy: Strategy, groups: Mapping[str, State], memory: Mapping[str, State]
) -> dict[str, State]:
    """Return the shared parameters that each participant receives, by name."""
    out = {participant.name: for_participant(groups, participant.industry) for participant in scenario.roster}
    if isinstance(strategy, Clusters):
        for group, current in groups.items():
            for participant in members_of(scenario, group, current):
                out[participant.name] |= strategy.model(current, memory.get(group, {}), participant.name)
    return out


def membership(
    scenario: Scenario, strategy: Strategy, groups: Mapping[str, State], memory: Mapping[str, State]
) -> dict[str, dict[str, int]]:
    """Return each participant's cluster by group; empty if the strategy has no clusters."""
    if not isinstance(strategy, Clusters):
        return {}
    return {
        group: strategy.clusters(
            memory.get(group, {}), [participant.name for participant in members_of(scenario, group, current)]
        )
        for group, current in groups.items()
    }


def final_models(
    scenario: Scenario, strategy: Strategy, groups: Mapping[str, State], memory: Mapping[str, State]
) -> dict[str, State]:
    """Return the final models of a run: one for every group, or one for every cluster of it if there are several."""
    out = dict(groups)
    if isinstance(strategy, Clusters):
        for group, numbers in membership(scenario, strategy, groups, memory).items():
            if len(set(numbers.values())) > 1:
                for name, k in numbers.items():
                    label = f"{'consortium' if group == '*' else group}-cluster-{k}"
                    out[label] = strategy.model(groups[group], memory.get(group, {}), name)
    return out
