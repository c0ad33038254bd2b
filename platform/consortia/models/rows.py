"""Predicts from raw rows, with the checks and features of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from clients import registry
from clients.industry import effective_schema
from clients.schema import Column, QuarantineReport, Schema, Target
from consortia.participant.own_model import About, OwnModel

__all__ = ["checked_features", "columns_of", "outputs_of", "predict", "view_of"]


def view_of(about: About) -> Schema:
    """Return the schema whose features the model was trained on."""
    return effective_schema(registry.get(about.industry), filter=about.contract.industries[about.industry].filter)


def columns_of(view: Schema) -> tuple[Column, ...]:
    """Return the columns that a prediction needs; a derived feature may look at every feature column."""
    derives = [d for d in view.derived if not view.selected or d.name in view.selected]
    return tuple(c for c in view.columns if c.is_feature and (derives or not view.selected or c.name in view.selected))


def outputs_of(target: Target) -> list[str]:
    """Return what a prediction's columns are called: `p(class)`, `p(label)`, `anomaly`, or a regression's target."""
    if target.kind == "anomaly":
        return ["anomaly"]
    if target.kind == "binary":
        return [f"p({target.classes[1]})"]
    return [f"p({name})" for name in target.classes] if target.outputs > 1 else [target.name]


def predict(model: OwnModel, about: About, frame: pd.DataFrame, where: str) -> tuple[pd.DataFrame, QuarantineReport]:
    """Predict each row by itself.

    Parameters
    ----------
    frame : DataFrame (n_rows, any columns)
        As read; further columns, the target among them, are ignored.
    where : str
        What errors call the source.

    Returns
    -------
    DataFrame (n_rows, n_outputs)
        float32; NaN for a row that breaks the schema: it gets no prediction rather than a wrong one.
    QuarantineReport

    Raises
    ------
    SchemaError
        A column is missing, or holds nothing of its type.
    """
    view = view_of(about)
    good, report = _checked(view, frame, where)
    scores = np.full((len(frame), len(outputs_of(view.target))), np.nan, dtype=np.float32)
    if len(good):
        found = model(torch.from_numpy(view.features(good)))
        scores[good.index.to_numpy()] = np.asarray(found).reshape(len(good), -1)
    return pd.DataFrame(scores, columns=outputs_of(view.target), index=frame.index), report


def checked_features(about: About, frame: pd.DataFrame, where: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the features (n_good, n_features) of the rows that `predict` predicts, and their places in the frame."""
    view = view_of(about)
    good, _ = _checked(view, frame, where)
    return view.features(good).astype(np.float64), good.index.to_numpy(dtype=np.int64)


def _checked(view: Schema, frame: pd.DataFrame, where: str) -> tuple[pd.DataFrame, QuarantineReport]:
    named = {c.name for c in columns_of(view)}
    columns = tuple(c if c.name in named else replace(c, required=False, nullable=True) for c in view.columns)
    frame = view.named(frame)
    rows = frame[[name for name in frame.columns if name in named]].reset_index(drop=True)
    rows[view.target.name] = _any_label(view.target)  # rows to predict have none; the check wants one
    return replace(view, columns=columns).check(rows, where=where)


def _any_label(target: Target) -> Any:
    if target.kind == "regression":
        return 0.0 if target.low is None else target.low
    return next(iter(target.mapping), target.classes[0])
