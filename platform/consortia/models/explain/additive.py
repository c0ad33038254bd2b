"""Explains a released model of shape functions: the shapes themselves, with what chance leaves open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clients.schema import Column, Derived, Schema, Target
from consortia.learners.additive.attribution import LEVEL, margins, norms, scatter
from consortia.learners.additive.model import NOISE, PART, SHAPES, START, Recipe
from consortia.models.explain.effects import Curve, Effect, Explanation
from consortia.models.shapes import cell_names
from privacy.randomness import numpy_generator

__all__ = ["cell_parts", "explain_additive", "score_names"]

Array = NDArray[np.float64]
#: Standard normal quantile of a band of LEVEL.
_BAND: Final = 1.96
_SAYS: Final = (
    "A bar is the root mean square, over the rows by the released cell counts, of what the column adds to the score. "
    "Grey: noise and the scatter of rows could have made all of it. The intervals hold for all columns together, with "
    f"probability {LEVEL:.0%} or more: they are wide on purpose, since how the cells of a column move together is not "
    "known.\n"
    "A curve is the model's own shape, exactly. Its band is 95 % at each cell, with noise at its most. Shapes are "
    "damped and smoothed, which no band shows. It is what the model does, not a cause.\n"
    "All of it follows from released sums and the public schema: nothing is charged, and no row was looked at."
)


def explain_additive(
    industry: str, schema: Schema, rule: Recipe, state: Mapping[str, Tensor], units: float
) -> Explanation:
    """Return what a model of shape functions says, with what noise and the scatter of rows leave open.

    Parameters
    ----------
    units : public number of units that surely count in the sums.
    """
    part, shapes = state[PART].numpy(), state[SHAPES].numpy()
    variances = state[NOISE].numpy() + scatter(rule, state, units, numpy_generator("explain", industry))
    unit = rule.outcome.half if rule.outcome.kind == "regression" else 1.0
    shown = unit * norms(rule, part, np.square(shapes))
    margin = unit * margins(rule, part, variances)
    band = _BAND * np.sqrt(variances)
    known: dict[str, Column | Derived] = {column.name: column for column in schema.columns}
    known |= {derived.name: derived for derived in schema.derived}
    found = []
    for number, (term, place) in enumerate(zip(rule.cells.terms, rule.cells.slices, strict=True)):
        names, middles = cell_names(schema, term)
        measure = known[term.name].measure if term.name in known else ""
        for output, name in enumerate(score_names(schema.target)):
            values, room = unit * shapes[place, output], unit * band[place, output]
            lows, highs = (tuple(end.tolist()) for end in (values - room, values + room))
            curve = Curve(names, middles, tuple(values.tolist()), lows, highs)
            importance, most = float(shown[number, output]), float(margin[number, output])
            bounds = max(0.0, importance - most), importance + most
            found.append(Effect(term.name, measure, name, importance, *bounds, curve))
    found.sort(key=lambda effect: (effect.output, -effect.importance))
    return Explanation(industry, "additive", tuple(_SAYS.splitlines()), tuple(found))


def score_names(target: Target) -> list[str]:
    """Return what the scores are called: the log-odds of a class, or the target's name for a regression."""
    if target.kind == "regression":
        return [target.name]
    return [f"log-odds of {name}" for name in (target.classes[1:] if target.kind == "binary" else target.classes)]


def cell_parts(rule: Recipe, state: Mapping[str, Tensor], features: Tensor) -> tuple[Array, Array]:
    """Return start (outputs,) and the shapes of each row's cells (n_rows, n_terms, outputs): their sum is the score.

    A regression's are in the target's own unit, its start with the middle of the bounds.
    """
    start, found = state[START].numpy(), state[SHAPES].numpy()[rule.cells.of(features).numpy()]
    if rule.outcome.kind == "regression":
        return start * rule.outcome.half + rule.outcome.middle, found * rule.outcome.half
    return start.copy(), found
