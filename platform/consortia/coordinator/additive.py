"""The coordinator's half of the learner `additive`: the next model from what was released, which is all that it keeps.

Everything here is post-processing. The model holds all that the next round needs, so a run goes on from any checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from consortia.coordinator.secure_sum.step import OpenSum
from consortia.learners.additive.boosting import curvatures
from consortia.learners.additive.model import Recipe
from consortia.learners.blocks.parts import Part, added, weights_for
from consortia.learners.blocks.release import deviations
from consortia.messages.blocks import block_noise, unscaled
from consortia.terms.scopes import State
from privacy.secure_sum.fixed_point import FixedPoint

__all__ = ["after_parts", "after_sum"]


def after_parts(rule: Recipe, current: State, message: int, parts: Sequence[Part]) -> State:
    """Return the group after a message in which each participant added its own noise."""
    noise = [deviations(rule, message, part.multiplier)[0] if part.multiplier else 0.0 for part in parts]
    # A row adds to one cell of each term, so a cell holds that part of the rows on average.
    rows = float(np.mean([part.units for part in parts])) * len(rule.cells.terms) / rule.cells.size
    weights = weights_for(noise, rows * (1.0 if message == 1 else float(curvatures(rule.outcome).mean())))
    total, units = added(0, parts, weights)
    deviation = math.hypot(*(weight * one for weight, one in zip(weights, noise, strict=True)))
    return {**current, **rule.advanced(message, current, total, deviation, units)}


def after_sum(
    rule: Recipe, current: State, message: int, one: OpenSum, code: FixedPoint, units: Mapping[str, float]
) -> State:
    """Return the group after a secure sum of its members' blocks opened.

    Parameters
    ----------
    units : public units of each member in the sum, times its weight.
    """
    (total,) = unscaled(rule, message, one.total)
    (deviation,) = block_noise(rule, message, code.share_std(one.asked) * code.step * math.sqrt(len(one.names)))
    return {**current, **rule.advanced(message, current, total, deviation, math.fsum(units.values()))}
