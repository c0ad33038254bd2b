"""The coordinator's half of learners whose model follows from released sums: `additive` and the learners of packages.

Everything here is post-processing. The model holds everything that the next message needs, so a run can resume from any
checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from consortia.common.errors import RunFailedError
from consortia.coordinator.secure_sum.step import OpenSum
from consortia.learners.blocks.parts import Part, added, weights_for
from consortia.learners.blocks.recipe import LearnedRecipe, Opened
from consortia.learners.blocks.release import deviations
from consortia.messages.blocks import block_noise, unscaled
from consortia.terms.scopes import State, check_like
from privacy.secure_sum.fixed_point import FixedPoint

__all__ = ["after_parts", "after_sum"]


def after_parts(rule: LearnedRecipe, current: State, message: int, parts: Sequence[Part]) -> State:
    """Return the group after a message in which each participant added its own noise.

    A participant has one weight for all blocks of a message. For it, noise and scatter are added over the blocks, each
    divided by its block's sensitivity.
    """
    numbers = list(zip(rule.lengths(message), rule.sensitivities(message), rule.scatter(message), strict=True))
    noise = [deviations(rule, message, part.multiplier) if part.multiplier else (0.0,) * len(numbers) for part in parts]
    own = [
        math.hypot(*(one * math.sqrt(length) / bound for one, (length, bound, _) in zip(each, numbers, strict=True)))
        for each in noise
    ]
    units = float(np.mean([part.units for part in parts]))
    weights = weights_for(own, units * math.fsum(length * scatter / bound**2 for length, bound, scatter in numbers))
    sums = [added(block, parts, weights) for block in range(len(numbers))]
    left = tuple(
        math.hypot(*(weight * each[block] for weight, each in zip(weights, noise, strict=True)))
        for block in range(len(numbers))
    )
    return _after(rule, current, message, Opened(tuple(total for total, _ in sums), left, sums[0][1]))


def after_sum(
    rule: LearnedRecipe, current: State, message: int, one: OpenSum, code: FixedPoint, units: Mapping[str, float]
) -> State:
    """Return the group after a secure sum of its members' blocks was opened.

    Parameters
    ----------
    units : public number of units of each member in the sum, times its weight.
    """
    noise = block_noise(rule, message, code.share_std(one.asked) * code.step * math.sqrt(len(one.names)))
    opened = Opened(tuple(unscaled(rule, message, one.total)), noise, math.fsum(units.values()))
    return _after(rule, current, message, opened)


def _after(rule: LearnedRecipe, current: State, message: int, opened: Opened) -> State:
    after = {**current, **rule.advanced(message, current, opened)}
    try:
        check_like(current, after)
    except ValueError as error:
        raise RunFailedError(
            f"message {message}: the learner's next model is none that participants take ({error}); repair the learner"
        ) from None
    return after
