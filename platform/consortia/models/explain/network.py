"""Explains any model by its outputs alone, on rows that only the public schema says anything about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.schema import Schema
from consortia.models.explain.effects import Curve, Effect, Explanation
from consortia.models.explain.points import Points, points_of, reference_rows
from consortia.models.rows import outputs_of
from privacy.randomness import numpy_generator

__all__ = ["Model", "explain_network", "outputs"]

Array = NDArray[np.float64]
#: Features (n_rows, n_features) -> probabilities or values.
Model = Callable[[Tensor], Tensor]
_ROWS: Final = 512
_SAYS: Final = (
    "A bar shows how far an output moves, typically, when this column alone is drawn anew: the root of half the mean "
    "square. That is the root of the column's total effect (Sobol).\n"
    "A curve is the average output over the reference rows with the column set to each value, less its average. It "
    "is what the model does, not a cause.\n"
    "The reference rows are drawn from the public schema, each column by itself and every value alike. Combinations "
    "that never occur are among them. No row of anybody was looked at, and nothing is charged.\n"
    "There is no interval. "
)
_OF_STEPS: Final = (
    "Noise went into every step of training, and what it did to the model is not known, so nothing here says which "
    "bars noise alone could have made."
)
_OF_SUMS: Final = (
    "Noise is in every sum that was released, and what it did to the model only its learner knows, so nothing here "
    "says which bars noise alone could have made."
)


def explain_network(industry: str, learner: str, schema: Schema, model: Model, *, sums: bool = False) -> Explanation:
    """Return what a model says on public reference rows; `sums` where it follows from a few messages of noisy sums."""
    points, generator = points_of(schema), numpy_generator("explain", industry)
    rows = reference_rows(points, _ROWS, generator)
    anew = reference_rows(points, _ROWS, generator)
    before = outputs(model, rows)
    found = []
    for one in points:
        places = list(one.positions)
        moved = rows.copy()
        moved[:, places] = anew[:, places]
        moves = np.sqrt(np.square(outputs(model, moved) - before).mean(axis=0) / 2)
        values = _curve(model, rows, one)
        for number, output in enumerate(outputs_of(schema.target)):
            curve = Curve(one.names, one.places, tuple(values[:, number].tolist()))
            found.append(Effect(one.column, one.measure, output, float(moves[number]), None, None, curve))
    found.sort(key=lambda effect: (effect.output, -effect.importance))
    return Explanation(industry, learner, tuple((_SAYS + (_OF_SUMS if sums else _OF_STEPS)).splitlines()), tuple(found))


def outputs(model: Model, rows: Array) -> Array:
    """Return a model's outputs (n_rows, n_outputs), float64."""
    with torch.no_grad():
        found = model(torch.from_numpy(rows.astype(np.float32)))
    return np.asarray(found, dtype=np.float64).reshape(len(rows), -1)


def _curve(model: Model, rows: Array, one: Points) -> Array:
    """Return the average outputs (n_values, n_outputs) at each value of a column, less their average."""
    values: Sequence[Array] = [_set(model, rows, one, value) for value in one.features]
    found = np.stack(values)
    return np.asarray(found - found.mean(axis=0))


def _set(model: Model, rows: Array, one: Points, value: Array) -> Array:
    moved = rows.copy()
    moved[:, list(one.positions)] = value
    return np.asarray(outputs(model, moved).mean(axis=0))
