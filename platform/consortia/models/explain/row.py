"""Why one row got its prediction: at home, of rows that stay there.

**What is computed here depends on own rows without noise.** It is printed or written where the rows are, on their
owner's machine; nothing of it is sent or kept for anybody else.

A model of noisy sums, one of shape functions and a linear one fall into exact parts. Any other model (a network, trees,
a stack) is asked by captum's sampled Shapley values, whole columns at a time, against public reference rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.models import FederatedModule
from clients.schema import QuarantineReport, Schema
from consortia.common.errors import InputError
from consortia.learners.additive.model import Recipe
from consortia.models.explain.additive import cell_parts
from consortia.models.explain.network import Model, outputs
from consortia.models.explain.points import Points, points_of, reference_rows
from consortia.models.explain.sums import row_parts
from consortia.models.rows import checked_features, outputs_of, predict, view_of
from consortia.participant.own_model import About, OwnModel
from consortia.terms.recipe import additive_recipe, recipe
from privacy.randomness import numpy_generator

__all__ = ["Parts", "explain_rows", "parts_of"]

Array = NDArray[np.float64]
_REFERENCES: Final = 8
_SAMPLES: Final = 8
_WANTS: Final = "wanted the package of the extra `explain`, got none; pip install 'consortia[explain]'"


@dataclass(frozen=True)
class Parts:
    """Rows' scores as sums: ``start + parts + rest``.

    Attributes
    ----------
    start : float64 (n_outputs,)
        The score that no column moved yet.
    parts : float64 (n_rows, n_columns, n_outputs)
    names : of what has a part, n_columns of them: the columns; of an additive model its pairs, too.
    rest : float64 (n_rows, n_outputs)
        What no single column did: the scaling of a very long row to the radius of the sums; 0 of other models.
    how : a sentence: what the numbers are, and against which reference.
    """

    start: Array
    parts: Array
    names: tuple[str, ...]
    rest: Array
    how: str


def explain_rows(
    model: OwnModel, about: About, frame: pd.DataFrame, where: str
) -> tuple[pd.DataFrame, QuarantineReport, str]:
    """Predict rows as `predict` does, with the parts of every score beside it.

    Returns
    -------
    DataFrame (n_rows, ...)
        The predictions; then, of each output, "start of OUTPUT", "COLUMN to OUTPUT" for every column and "rest of
        OUTPUT". NaN for a row that breaks the schema.
    QuarantineReport
    str
        What the numbers are.

    Raises
    ------
    SchemaError
        See `predict`.
    InputError
        The model needs the extra `explain`.
    """
    predictions, report = predict(model, about, frame, where)
    features, places = checked_features(about, frame, where)
    view = view_of(about)
    found = parts_of(model, about, view, features)
    columns: dict[str, Array] = {}
    for number, output in enumerate(outputs_of(view.target)):
        of_output = [("start of", np.full(len(features), found.start[number]))]
        of_output += [(f"{name} to", found.parts[:, place, number]) for place, name in enumerate(found.names)]
        of_output += [("rest of", found.rest[:, number])]
        for name, values in of_output:
            whole = np.full(len(frame), np.nan)
            whole[places] = values
            columns[f"{name} {output}"] = whole
    return pd.concat([predictions, pd.DataFrame(columns, index=frame.index)], axis=1), report, found.how


def parts_of(model: OwnModel, about: About, schema: Schema, features: Array) -> Parts:
    """Return the parts of rows' scores (n_rows, n_features)."""
    points, rows = points_of(schema), torch.from_numpy(features)
    contract, alone = about.contract.of(about.industry), model.slope is None and model.trees is None
    if model.network is not None and alone and contract.additive is not None:
        return _of_shapes(additive_recipe(contract, about.industry), model.network, rows)
    rule = None if contract.sums is None else recipe(contract, about.industry)
    if model.network is not None and alone and rule is not None and rule.encoder is None:
        state = model.network.state_dict()
        how = (
            "Shapley values, exact, against independent columns with the released means; in the output's own unit, "
            "before it is cut off to a probability"
        )
        start, found, rest = row_parts(rule, points, state, rows)
        return Parts(start, found, _names(points), rest, how)
    generator = numpy_generator("explain rows", about.industry)
    if model.slope is not None and model.intercept is not None and model.network is None and model.trees is None:
        return _linear(model, points, features, reference_rows(points, 4096, generator))
    return _sampled(model, points, features, reference_rows(points, _REFERENCES, generator))


def _names(points: Sequence[Points]) -> tuple[str, ...]:
    return tuple(one.column for one in points)


def _of_shapes(rule: Recipe, network: FederatedModule, rows: Tensor) -> Parts:
    start, found = cell_parts(rule, network.state_dict(), rows)
    unit = {"regression": "in the target's own unit", "binary": "in log-odds"}.get(rule.outcome.kind, "before softmax")
    how = f"the shapes of the row's cells, exact, {unit}: with the start they are the model's score"
    names = tuple(term.name for term in rule.cells.terms)
    return Parts(start, found, names, np.zeros((len(found), len(start))), how)


def _linear(model: OwnModel, points: Sequence[Points], features: Array, reference: Array) -> Parts:
    """Return ``slope (x - mean)`` by column, against the mean of the public reference rows."""
    assert model.slope is not None
    assert model.intercept is not None
    slope, intercept = model.slope.numpy(), model.intercept.numpy()
    middle, half = model.target.scale
    regression = model.target.kind == "regression"
    mean = reference.mean(axis=0)
    start = mean @ slope + intercept
    found = np.stack([(features - mean)[:, list(one.positions)] @ slope[list(one.positions)] for one in points], axis=1)
    how = "exact parts of the linear score, against the mean of rows drawn from the public schema; "
    if regression:
        start, found, how = start * half + middle, found * half, how + "in its unit"
    else:
        how += "in log-odds"
    return Parts(start, found, _names(points), np.zeros((len(features), len(start))), how)


def _sampled(model: Model, points: Sequence[Points], features: Array, references: Array) -> Parts:
    try:
        from captum.attr import ShapleyValueSampling
    except ImportError:
        raise InputError(f"--explain: {_WANTS}") from None
    mask = torch.zeros(1, features.shape[1], dtype=torch.long)
    for place, one in enumerate(points):
        mask[0, list(one.positions)] = place
    starts = outputs(model, references)
    count = starts.shape[1]
    found = np.zeros((len(features), len(points), count))
    rows = torch.from_numpy(features.astype(np.float32))
    first = [one.positions[0] for one in points]

    def score(number: int) -> Model:
        return lambda asked: model(asked).reshape(len(asked), -1)[:, number]

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # which orders are looked at; no noise of a release
        for reference in references:
            baseline = torch.from_numpy(reference.astype(np.float32))[None]
            for number in range(count):
                part = ShapleyValueSampling(score(number)).attribute(
                    rows, baselines=baseline, feature_mask=mask, n_samples=_SAMPLES
                )
                found[:, :, number] += part.numpy()[:, first] / len(references)
    how = (
        f"Shapley values of whole columns, sampled by captum ({_SAMPLES} orders), averaged over {len(references)} rows "
        "drawn from the public schema; in the output's own unit"
    )
    return Parts(starts.mean(axis=0), found, _names(points), np.zeros((len(features), count)), how)
