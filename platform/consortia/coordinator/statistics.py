"""The coordinator's half of statistics before training: released numbers by site and in total, with error bars.

Everything here is post-processing of what participants released.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from consortia.coordinator.sums import Memory, kept_sum, parts_of
from consortia.learners.blocks.release import deviations
from consortia.learners.statistics.differ import sites_differ
from consortia.learners.statistics.estimates import Released, statistics_of
from consortia.learners.statistics.shares import BLOCK
from consortia.messages.blocks import contribution
from consortia.messages.statistics import Together
from consortia.messages.sums import NO_PART
from consortia.terms.recipe import layout
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import State

__all__ = ["beside", "found"]


def found(scenario: Scenario, memory: Mapping[str, Memory]) -> dict[str, Any]:
    """Return the statistics of each industry as JSON-able data.

    If participants add their own noise, `sites` has the numbers of each one, and `differ` has the verdict on each
    column. A secure sum gives only `together`; each participant compares itself with the rest at home.
    """
    out = {}
    for industry in sorted(memory):
        together = _together(scenario, industry, memory[industry])
        if together is None:
            continue
        sites = _sites(scenario, industry, memory[industry])
        pairs = {name: (one, _sum([other for n, other in sites.items() if n != name])) for name, one in sites.items()}
        if len(pairs) == 2:  # of two sites the second comparison repeats the first
            pairs.popitem()
        verdicts = sites_differ(together.released.layout, pairs) if len(sites) > 1 else {}
        out[industry] = {
            "weighted": together.scale != 1.0 and _unequal(memory[industry]),
            "together": statistics_of(together.released),
            "sites": {name: statistics_of(one) for name, one in sites.items()},
            "differ": {column: verdict.to_json() for column, verdict in verdicts.items()},
        }
    return out


def beside(scenario: Scenario, memory: Mapping[str, Memory]) -> dict[str, State]:
    """Return what each participant receives with the last message."""
    out: dict[str, State] = {}
    for participant in scenario.roster:
        kept = memory.get(participant.industry, {})
        together = _together(scenario, participant.industry, kept)
        if together is None:
            continue
        key = together.key
        if key == NO_PART and f"{participant.name}/{BLOCK}" in kept:
            key = contribution({BLOCK: kept[f"{participant.name}/{BLOCK}"]})
        elif key != NO_PART and participant.name not in kept_sum(kept)[1]:
            key = NO_PART
        out[participant.name] = Together(together.released, together.scale, key).to_tensors()
    return out


def _together(scenario: Scenario, industry: str, kept: Memory) -> Together | None:
    """Return the numbers of all participants together; None if nothing was released."""
    rule = layout(scenario.contract, industry)
    context, _, noise = kept_sum(kept)
    if context:
        scale = max(_weights(kept))
        vector = kept[f"sum/{BLOCK}"].numpy() / scale
        return Together(Released(rule, vector, noise[0] / scale), scale, context)
    sites = _sites(scenario, industry, kept)
    return Together(_sum(list(sites.values())), 1.0, NO_PART) if sites else None


def _sites(scenario: Scenario, industry: str, kept: Memory) -> dict[str, Released]:
    rule = layout(scenario.contract, industry)
    return {
        name: Released(rule, part.blocks[0], deviations(rule, 1, part.multiplier)[0] if part.multiplier else 0.0)
        for name, part in parts_of(scenario, industry, kept, 1).items()
    }


def _sum(sites: list[Released]) -> Released:
    if not sites:
        raise ValueError("sites: wanted one at least")
    noise = math.sqrt(math.fsum(one.deviation**2 for one in sites))
    return Released(sites[0].layout, np.sum([one.vector for one in sites], axis=0), noise)


def _weights(kept: Memory) -> Iterator[float]:
    prefix = "sum/weight/"
    return (float(weight) for name, weight in kept.items() if name.startswith(prefix))


def _unequal(kept: Memory) -> bool:
    """Return whether members of a secure sum had different weights. Different budgets cause that."""
    weights = list(_weights(kept))
    return bool(weights) and not math.isclose(min(weights), max(weights), rel_tol=1e-6)
