"""Other models of the released sums, at no charge: another strength, fewer columns or fewer participants.

All of it is post-processing of data that the coordinator already has. The centre and the radius stay those of message 1
of all participants. With secure sums the coordinator has only the total, so it cannot leave a participant out. Each
participant can leave itself out at home.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch

from consortia.common.errors import InputError
from consortia.coordinator.checkpoint import load_latest
from consortia.coordinator.sums import parts_of, released_sums
from consortia.learners.blocks.parts import Part
from consortia.learners.sums.model import WEIGHTS
from consortia.learners.sums.solution import STRENGTH, Released, everybodys
from consortia.terms.recipe import recipe
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import State
from consortia.trust.passport.leave import check_whole

__all__ = ["coalition", "of_run", "parts_of_run"]


def coalition(folder: Path, scenario: Scenario, industry: str, without: Collection[str] = ()) -> Released:
    """Return an industry's released sums, without some of its participants.

    Parameters
    ----------
    folder : Path
        The coordinator's folder of a finished run.

    Raises
    ------
    InputError
        There is no such run, learner or participant; the run used a secure sum; or nobody is left.
    """
    scenario = scenario.of(industry)
    kept = _kept(folder, scenario, industry)
    members = {participant.name for participant in scenario.roster if participant.industry == industry}
    if strange := sorted(set(without) - members):
        raise InputError(f"without: wanted some of {', '.join(sorted(members))}, got {', '.join(strange)}")
    if without and scenario.contract.trust == "aggregate":
        raise InputError('without: wanted nobody with trust = "aggregate", which keeps one sum; take local noise')
    found = released_sums(scenario, industry, kept, sorted(members - set(without)))
    if found is None:
        raise InputError(f"{folder}: wanted released sums of {industry}, got none")
    return found


def parts_of_run(folder: Path, scenario: Scenario, industry: str) -> dict[str, Part]:
    """Return what each participant released in the last message with its own noise, by name.

    Raises
    ------
    InputError
        There is no such run or learner, or the run used a secure sum.
    """
    if scenario.contract.sums is not None and scenario.contract.trust == "aggregate":
        raise InputError(
            'wanted sums of each participant, got trust = "aggregate", which keeps the total only; each participant '
            "sees in its own receipt what joining gave it, and nobody can say what it gave to the others"
        )
    return parts_of(scenario, industry, _kept(folder, scenario, industry), 2)


def of_run(
    folder: Path,
    scenario: Scenario,
    industry: str,
    *,
    without: Collection[str] = (),
    strength: float = STRENGTH,
    columns: Sequence[bool] | None = None,
) -> State:
    """Return the shared parameters of a model of released sums alone.

    Parameters
    ----------
    strength : float
        Strength of the ridge penalty; the run's own model uses 10.
    columns : sequence of bool, optional
        Which columns may have a weight, in the order of `Columns.expand`. The intercept always has one.
    """
    rule, found = recipe(scenario.contract, industry), coalition(folder, scenario, industry, without)
    if not strength > 0:
        raise InputError(f"strength: wanted a number > 0, got {strength!r}")
    if columns is not None and len(columns) != rule.columns.width:
        raise InputError(f"columns: wanted {rule.columns.width} values, got {len(columns)}")
    chosen = np.array([True, *(columns if columns is not None else [True] * rule.columns.width)])
    state = load_latest(folder)
    assert state is not None
    weights = everybodys(found, rule.outcome, strength, chosen)
    return {**state.groups[industry], WEIGHTS: torch.from_numpy(weights)}


def _kept(folder: Path, scenario: Scenario, industry: str) -> State:
    if scenario.contract.of(industry).sums is None or industry not in scenario.contract.industries:
        raise InputError(f'{folder}: wanted a run with learner = "sums" in {industry!r}, got another')
    check_whole(folder)
    state = load_latest(folder)
    if state is None or industry not in state.memory:
        raise InputError(f"{folder}: wanted the checkpoints of a run, got none of {industry}")
    return state.memory[industry]
