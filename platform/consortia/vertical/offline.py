"""Scores new rows with the label owner's own model, at home and offline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from clients import holdings
from clients.schema import QuarantineReport
from consortia.common.errors import InputError, RefusedError
from consortia.vertical.stacking import Decision
from consortia.vertical.store import Store

__all__ = ["predict_alone"]


def predict_alone(folder: Path, frame: pd.DataFrame, where: str) -> tuple[pd.DataFrame, QuarantineReport]:
    """Predict each row from the label owner's own columns, with the model that was fitted without any partner.

    Parameters
    ----------
    folder : Path
        The label owner's own folder of a finished run, with its receipt.
    frame : DataFrame (n_rows, any columns)
        The holding's columns; identifiers and labels are not needed.
    where : str
        Name of the source in errors.

    Returns
    -------
    DataFrame (n_rows, 1)
        Probability of the positive class; NaN for a row that breaks the schema.
    QuarantineReport

    Raises
    ------
    InputError
        This version did not write the model at home.
    """
    receipt = json.loads((folder / "receipt.json").read_text(encoding="utf-8"))
    holding = holdings.get(receipt["case"]).holding(receipt["industry"])
    assert holding.target is not None
    try:
        decision: Decision = Store(folder / "vertical-0", folder / "steps.jsonl").objects("stack", _missing)
    except RefusedError as error:
        raise InputError(f"{folder}: wanted the label owner's models of this run, got none: {error}") from None
    rows = frame[[column.name for column in holding.columns if column.name in frame]].reset_index(drop=True)
    schema = replace(holding.schema, columns=holding.columns)
    good, report = schema.check(rows.assign(**{schema.target.name: 0}), where=where)
    scores = np.full((len(frame), 1), np.nan)
    if len(good):
        own = schema.features(good).astype(np.float64)
        scores[good.index.to_numpy(), 0] = decision.alone.predict(own, np.empty((len(own), 0)))
    return pd.DataFrame(scores, columns=[f"p({holding.target.classes[1]})"], index=frame.index), report


def _missing() -> Decision:
    raise RefusedError("NOT_TRAINED", "the run was not trained to its end")
