"""Explains a model of released sums: everything follows from the sums in closed form, with an interval of the noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.schema import Schema
from consortia.learners.sums.attribution import DRAWS, LEVEL, margins, moments, parts, redrawn, spreads
from consortia.learners.sums.model import CENTRE, RADIUS, WEIGHTS, Recipe
from consortia.learners.sums.solution import Released
from consortia.models.explain.effects import Curve, Effect, Explanation
from consortia.models.explain.points import Points, points_of
from consortia.models.rows import outputs_of
from privacy.randomness import numpy_generator

__all__ = ["explain_sums", "row_parts"]

Array = NDArray[np.float64]
_SAYS: Final = (
    "A bar is the root mean square, over the rows by the released Gram matrix, of what the column adds to the output. "
    "Grey: noise and the scatter of rows could have made all of it. The intervals hold for all columns together, with "
    "probability 95 %.\n"
    "A curve shows what a value adds for a row of ordinary length, the other columns being at their released means. "
    "Its band is 95 % at each value. It is what the model does, not a cause.\n"
    "All of it follows from released sums and the public schema: nothing is charged, and no row was looked at."
)


def explain_sums(
    industry: str, schema: Schema, rule: Recipe, state: Mapping[str, Tensor], released: Released
) -> Explanation:
    """Return what a model of released sums says, with what noise leaves open."""
    points = points_of(schema)
    centre = state[CENTRE].numpy()
    maps, _ = parts(rule.columns, centre, [one.positions for one in points])
    readout = rule.outcome.readout.numpy()
    weights = state[WEIGHTS].numpy()
    again = redrawn(released, rule.outcome, DRAWS, numpy_generator("explain", industry))
    noise = (again - weights) @ readout
    second = moments(released)
    shown = spreads(maps, second, weights @ readout)
    margin = margins(spreads(maps, second, noise))
    found = []
    for place, one in enumerate(points):
        rows = _rows(rule, points, one, centre, float(state[RADIUS])) @ maps[place]
        values = rows @ weights @ readout
        high, low = np.quantile(rows @ noise, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        for number, output in enumerate(outputs_of(schema.target)):
            importance, room = float(shown[place, number]), float(margin[place, number])
            curve = Curve(
                one.names,
                one.places,
                tuple(values[:, number].tolist()),
                tuple((values - low)[:, number].tolist()),
                tuple((values - high)[:, number].tolist()),
            )
            bounds = max(0.0, importance - room), importance + room
            found.append(Effect(one.column, one.measure, output, importance, *bounds, curve))
    found.sort(key=lambda effect: (effect.output, -effect.importance))
    return Explanation(industry, "sums", tuple(_SAYS.splitlines()), tuple(found))


def _rows(rule: Recipe, points: Sequence[Points], one: Points, centre: Array, radius: float) -> Array:
    """Return encoded rows (n_values, size), one for each value of a column, other numbers at their means."""
    features = np.tile(centre[: rule.columns.features], (len(one.features), 1))
    features[:, list(one.positions)] = one.features
    return np.asarray(rule.columns.centred(torch.from_numpy(features), torch.from_numpy(centre))) / radius


def row_parts(
    rule: Recipe, points: Sequence[Points], state: Mapping[str, Tensor], features: Tensor
) -> tuple[Array, Array, Array]:
    """Return each row's value as a sum: start (outputs,), parts (n_rows, n_columns, outputs), rest (n_rows, outputs).

    The start is the output of a row at the released means. The rest is 0 for rows within the radius; a longer row is
    scaled to it, which moves its start, too. The sum is the output before it is cut off to a probability.
    """
    maps, base = parts(rule.columns, state[CENTRE].numpy(), [one.positions for one in points])
    weights = state[WEIGHTS].numpy() @ rule.outcome.readout.numpy()
    encoded = np.asarray(rule.columns.encode(features, state[CENTRE], state[RADIUS]))
    found = np.einsum("ns,gst,to->ngo", encoded, maps, weights)
    mean = 0.5 / float(state[RADIUS]) * (base @ weights)[0]
    return rule.outcome.start.numpy() + mean, found, encoded @ base @ weights - mean
