"""A model of shape functions that its participant edits by hand: out as a table, back as a model for use at home.

Guarantee: an edited model never leaves. Whoever edits may know rows, and no budget pays for that. It is of a kind of
its own, which `check_leaves` refuses, and no receipt and no metric is made of it.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from clients import registry
from consortia.common.disk import write_json
from consortia.common.errors import InputError
from consortia.common.run_folders import run_folder
from consortia.common.strict import SUPPORTED_SCHEMA
from consortia.learners.additive.model import SHAPES, START, Recipe
from consortia.models.explain.additive import score_names
from consortia.models.shapes import cell_names
from consortia.models.source import EDITED_MANIFEST, Found, of_participant
from consortia.participant.own_model import EDITED, FEDERATED, OwnModel, keep
from consortia.terms.recipe import additive_recipe

__all__ = ["COLUMNS", "edit", "read_shapes", "shapes_of"]

#: Of the table; only the last one may be changed.
COLUMNS: Final = ("column", "cell", "output", "adds")


def shapes_of(run: str, participant: str) -> pd.DataFrame:
    """Return what every cell of a participant's federated model adds, one line each; the start comes first.

    Returns
    -------
    DataFrame with `COLUMNS`
        Log-odds; of a regression its own unit.

    Raises
    ------
    InputError
        There is no such run or participant, or its learner is not `additive`.
    """
    return _table(*_released(run, participant))


def edit(run: str, participant: str, edited: pd.DataFrame) -> list[str]:
    """Keep a model with the numbers of a table in the participant's own run folder; return what was changed.

    Every edit starts from the federated model as it came, so the table is all that was edited.

    Parameters
    ----------
    edited : DataFrame with `COLUMNS`
        That of `shapes_of` with other numbers in `adds`.

    Raises
    ------
    InputError
        The table is another one, or a number is not finite.
    """
    found, rule = _released(run, participant)
    table = _table(found, rule)
    given = [name for name in COLUMNS if name in edited.columns]
    keys = list(COLUMNS[:-1])
    if given != list(COLUMNS) or not edited[keys].astype(str).reset_index(drop=True).equals(table[keys]):
        raise InputError(
            f"shapes: wanted the {len(table)} lines of `consortia edit RUN --participant {participant} --out FILE` in "
            f"their order, with other numbers in the column {COLUMNS[-1]!r} only; got another table"
        )
    adds = pd.to_numeric(edited["adds"], errors="coerce").to_numpy(dtype=np.float64)
    if not np.isfinite(adds).all():
        line = int(np.flatnonzero(~np.isfinite(adds))[0]) + 2
        raise InputError(f"shapes, line {line}: wanted a finite number in 'adds', got another value")
    changed = np.flatnonzero(adds != table["adds"].to_numpy())
    if not len(changed):
        raise InputError("shapes: wanted another number in 'adds' somewhere, got the model as it came")
    assert found.model.network is not None
    network = copy.deepcopy(found.model.network)
    start, shapes = _numbers(adds.reshape(-1, rule.outputs), rule)
    state = network.state_dict()
    mine = (adds != table["adds"].to_numpy()).reshape(-1, rule.outputs)
    # A number that was not touched stays as it is, to the last bit.
    state[START] = torch.where(torch.from_numpy(mine[0]), torch.from_numpy(start), state[START])
    state[SHAPES] = torch.where(torch.from_numpy(mine[1:]), torch.from_numpy(shapes), state[SHAPES])
    network.load_state_dict(state)
    about = replace(found.about, kind=EDITED, detail=f"{len(changed)} numbers")
    folder = run_folder(run, participant) / "models"
    hashes = keep(folder, {"edited": (OwnModel(found.model.target, network), about)})
    lines = [_said(table.iloc[place], float(adds[place])) for place in changed]
    source = hashlib.sha256(found.data).hexdigest()
    write_json(
        folder / EDITED_MANIFEST,
        {"schema": SUPPORTED_SCHEMA, "sha256": hashes["edited"], "federated": source, "edits": lines},
    )
    return lines


def _released(run: str, participant: str) -> tuple[Found, Recipe]:
    found = of_participant(run, participant, FEDERATED)
    contract = found.about.contract.of(found.about.industry)
    if contract.additive is None or found.about.kind != FEDERATED:
        raise InputError(
            f"{run}: wanted a run of the learner 'additive', whose shapes can be edited, got {contract.learner!r}"
        )
    return found, additive_recipe(contract, found.about.industry)


def _table(found: Found, rule: Recipe) -> pd.DataFrame:
    assert found.model.network is not None
    schema = registry.get(found.about.industry).schema
    state = found.model.network.state_dict()
    unit, middle = _scale(rule)
    outputs = score_names(schema.target)
    lines = [("start", "", state[START].numpy() * unit + middle)]
    for term, place in zip(rule.cells.terms, rule.cells.slices, strict=True):
        for cell, values in zip(cell_names(schema, term)[0], state[SHAPES].numpy()[place] * unit, strict=True):
            lines.append((term.name, cell, values))
    rows = [
        (column, cell, output, float(value))
        for column, cell, values in lines
        for output, value in zip(outputs, values, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _numbers(adds: NDArray[np.float64], rule: Recipe) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return start (outputs,) and shapes (size, outputs) as the module has them."""
    unit, middle = _scale(rule)
    return (adds[0] - middle) / unit, adds[1:] / unit


def _scale(rule: Recipe) -> tuple[float, float]:
    """Return what one is in the table's unit, and where zero lies: of a regression its public scale."""
    return (rule.outcome.half, rule.outcome.middle) if rule.outcome.kind == "regression" else (1.0, 0.0)


def _said(line: pd.Series, now: float) -> str:
    where = f"{line['column']}, {line['cell']}" if line["cell"] else str(line["column"])
    return f"{where}: {line['adds']:+.4g} to {now:+.4g} ({line['output']})"


def read_shapes(file: Path) -> pd.DataFrame:
    """Read the table from CSV; InputError where there is none."""
    try:
        return pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: wanted the CSV file of shapes, got {type(error).__name__}") from None
