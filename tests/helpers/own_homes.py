"""Homes of their own for everybody of a scenario, as a deployed run wants them."""

from __future__ import annotations

from pathlib import Path

import pytest

from consortia.cli.budget import allow, init
from consortia.participant.home import Home
from consortia.terms.scenario import load_scenario


def own_homes(
    scenario: str,
    homes: Path,
    patch: pytest.MonkeyPatch,
    *,
    split_seed: int | None = None,
    rounds: int | None = None,
    seed: int | None = None,
) -> list[str]:
    """Make a home with policy and ledger for everybody, who accepts the contract; return their names.

    Parameters
    ----------
    split_seed : of the split keys, so that the same rows train as in a simulation with it; None draws them.
    rounds, seed : of the contract that is accepted, where they are others than the scenario's.
    """
    patch.setenv("CONSORTIA_HOME", str(homes))
    names = [participant.name for participant in load_scenario(scenario).roster]
    if split_seed is not None:
        for name in names:
            Home(homes / name, name).create(split_seed=split_seed)
    init("", scenario=scenario)
    for name in names:
        allow([name, scenario], rounds=rounds, seed=seed)
    return names
