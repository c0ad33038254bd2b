"""What the kept noisy updates of a run of steps say of each other, round by round.

Guarantee: post-processing of noisy updates that the coordinator holds by the contract (`coordinator.updates`). Nobody
is asked, no budget is spent, no model of a coalition is made and nothing of it is measured on anybody's rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from consortia.common.errors import InputError
from consortia.common.strict import listed
from consortia.coordinator import updates
from consortia.coordinator.aggregation import members_of, round_weights
from consortia.coordinator.checkpoint import load_latest
from consortia.learners.agreement import LEAST_ROUNDS, Round
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import State
from consortia.trust.passport.leave import check_whole
from strategies.fednova import effective_steps
from strategies.information import flat_change

__all__ = ["rounds_of_run"]


def rounds_of_run(folder: Path, scenario: Scenario, industry: str) -> tuple[list[str], list[Round]]:
    """Return the participants whose updates are kept, sorted, and each round in which they moved the model.

    Weights are those that the run gave these updates; the scale of a round is its learning rate times effective steps
    (of FedSGD, whose updates are gradients, 1).

    Parameters
    ----------
    folder : Path
        The coordinator's folder of a finished run.

    Raises
    ------
    InputError
        The contract keeps no updates, or others than those of a mean; the run has more than one group of shared
        parameters; files are missing; or fewer than two rounds or participants are kept.
    """
    contract = scenario.contract
    strategy = contract.strategy.strategy()
    if industry not in contract.industries:
        raise InputError(f"--industry: wanted one of {listed(sorted(contract.industries))}, got {industry!r}")
    if contract.trust != "local":
        raise InputError(
            f'{folder}: wanted updates of each participant, got trust = "{contract.trust}", with which nobody '
            "has one with noise enough of its own; nobody can say who contributed"
        )
    if not contract.keeps_updates:
        raise InputError(
            f'{folder}: wanted a run with learner = "sums", or with contract.keeps_updates = true, got neither; the '
            "coordinator kept no update of it; another run has to say so from the start"
        )
    if not strategy.fit.sum_only:
        raise InputError(
            f"{folder}: wanted a strategy that takes a weighted mean of updates (fedavg, fedsgd, fedadam, ...), got "
            f"{contract.strategy.name}, of which a coalition's step is no mean"
        )
    check_whole(folder)
    latest = load_latest(folder)
    if latest is None:
        raise InputError(f"{folder}: wanted its last checkpoint, got none; put the run's own back")
    if len(latest.groups) != 1:
        raise InputError(f"{folder}: wanted one group of shared parameters, got {listed(sorted(latest.groups))}")
    (group,) = latest.groups
    files = updates.files_of(folder, latest.round)
    used = [
        (number, file)
        for number, file in enumerate(files, start=1)
        if group not in latest.history[number - 1].get("too_few_replies", [])
    ]
    names = sorted({name for _, file in used for name in updates.load(file, scenario)})
    if len(used) < LEAST_ROUNDS or len(names) < 2:
        raise InputError(
            f"{folder}: wanted kept updates of at least {LEAST_ROUNDS} rounds that moved the model, whose scatter "
            f"makes the interval, and of 2 participants; got {len(used)} and {len(names)}"
        )
    current = latest.groups[group]
    nothing = {name: torch.zeros_like(tensor) for name, tensor in current.items()}
    members = members_of(scenario, group, current)
    return names, [
        _round(scenario, members, nothing, names, number, updates.load(file, scenario)) for number, file in used
    ]


def _round(
    scenario: Scenario,
    members: Sequence[RosterParticipant],
    nothing: State,
    names: Sequence[str],
    number: int,
    kept: Mapping[str, updates.Kept],
) -> Round:
    contract = scenario.contract
    members = [one for one in members if one.name in kept]
    declared = {name: one.multiplier for name, one in kept.items()}
    sizes = {name: one.size for name, one in kept.items() if one.size is not None}
    states = [kept[one.name].change for one in members]
    weights = round_weights(contract, members, nothing, states, declared, sizes, number)
    (rules,) = contract.industries.values()
    gradient = contract.strategy.strategy().fit.gradient
    steps = effective_steps(rules.shared_steps, rules.momentum)
    scale = 1.0 if gradient else rules.rate(number, contract.rounds) * steps
    vectors = torch.stack([flat_change(nothing, state) for state in states])
    places = [names.index(one.name) for one in members]
    gram, spread = np.zeros((len(names), len(names))), np.zeros(len(names))
    gram[np.ix_(places, places)] = (vectors @ vectors.T).numpy() / scale
    spread[places] = weights
    return Round(gram, spread)
