"""What a run of steps is without one of its participants: the kept updates of the others, played again.

Guarantees
----------
* *Post-processing.* Everything follows from noisy updates that the coordinator holds by the contract
  (`consortia.coordinator.updates`). Nobody is asked and no budget is spent.
* *What old and new model together say of the leaver* is a function of its own noisy updates, which its ε covers. A
  leaver that sent one without noise is refused.
* *No model of before.* Models, means and the server's memory in every checkpoint are the replay's. From a kept one of
  before, and the others' updates, the leaver's could be worked out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from consortia.common.errors import InputError
from consortia.common.strict import listed
from consortia.coordinator import updates
from consortia.coordinator.checkpoint import Checkpoint, to_bytes
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import State

__all__ = ["SAYS", "Without", "final", "flat", "played_again"]

SAYS: Final = (
    "kept noisy updates of those who stay were added again, from the public initial model; nobody was asked or charged",
    "updates of round 1 were computed at the public initial model: with one round this is the run without the leaver",
    "updates of later rounds were computed at models that the leaver had shaped: this is no training without it",
    "only a new run is a training without it, and that is charged to the others",
    "its quality was not measured: a metric of it would be a new release",
)


@dataclass(frozen=True)
class Without:
    """A run of steps without one participant.

    Attributes
    ----------
    remaining : whose updates the replay has.
    rounds : how many were played again.
    group : the one group of parameters, as checkpoints name it.
    old, new : its released model.
    states : the replayed checkpoints, by file.
    """

    remaining: tuple[str, ...]
    rounds: int
    group: str
    old: State
    new: State
    states: Mapping[Path, Checkpoint]

    def files(self) -> Iterator[tuple[Path, bytes]]:
        """Yield the checkpoints' new bytes."""
        for file, state in self.states.items():
            yield file, to_bytes(state)


def played_again(folder: Path, scenario: Scenario, states: Mapping[Path, Checkpoint], name: str) -> Without:
    """Return the run without `name`; nothing is written.

    Parameters
    ----------
    states : the checkpoints of the run, by file, oldest first.

    Raises
    ------
    InputError
        Kept updates are missing, the leaver released none, or one without noise, or too few would be left.
    """
    latest = max(states.values(), key=lambda state: state.round, default=None)
    if latest is None:
        raise InputError(f"{folder}: wanted its last checkpoint, got none; put the run's own back")
    if len(latest.groups) != 1:
        raise InputError(
            f"{folder}: wanted one group of shared parameters, got {listed(sorted(latest.groups))}; train again "
            f"without {name}, which is charged to the others"
        )
    names: set[str] = set()
    for file in updates.files_of(folder, latest.round):
        kept = updates.load(file, scenario)
        names |= kept.keys()
        if name in kept and not kept[name].multiplier > 0:
            raise InputError(f"--participant: wanted a participant with noise of its own, got {name}, which sent none")
    if name not in names:
        raise InputError(f"{folder}: wanted a participant whose updates are in this run, got {name}, of whom none is")
    remaining = tuple(sorted(names - {name}))
    if len(remaining) < max(1, scenario.quorum):
        raise InputError(
            f"--participant: wanted at least {max(1, scenario.quorum)} participants left (contract.round.quorum), got "
            f"{len(remaining)} without {name}; delete this run's folder, or train again with others"
        )
    wanted, found = {state.round: file for file, state in states.items()}, {}
    for state in updates.replayed(folder, scenario, latest.round, remaining):
        before = latest.history[state.round - 1].get("too_few_replies", [])
        if set(state.history[0]["too_few_replies"]) - set(before):
            raise InputError(
                f"--participant: wanted enough others for {scenario.contract.strategy.name} in every round, got too "
                f"few in round {state.round} without {name}; train again with others"
            )
        if state.round in wanted:
            file = wanted[state.round]
            was = states[file]
            found[file] = replace(was, groups=state.groups, memory=state.memory, average=state.average)
    (group,) = latest.groups
    new = max(found.values(), key=lambda state: state.round)
    return Without(remaining, latest.round, group, final(scenario, latest), final(scenario, new), found)


def final(scenario: Scenario, state: Checkpoint) -> State:
    """Return the released model that a checkpoint of one group holds."""
    (model,) = ((scenario.contract.strategy.average_last > 1 and state.average) or state.groups).values()
    return model


def flat(model: State) -> Tensor:
    """Return all parameters as one vector (float64)."""
    return torch.cat([one.double().flatten() for one in model.values() if one.is_floating_point()])
