"""The model that a participant would use: its own best model stacked with the federated score. Also its control.

* `alone`: the best model of its own (`consortia.participant.baseline`).
* `control`: `alone` stacked with a second model of its own.
* `joined`: `alone` stacked with the federated score.

The net gain of joining is (joined - alone) - (control - alone): the gain beyond that of a second own model.

On which rows a stack is fitted
-------------------------------
The scores should come from models that did not see the row. For validation rows this holds. If there are fewer than
`ENOUGH` validation units, or fewer than `OF_A_CLASS` units of the rarer class, training rows are added with out-of-fold
own scores. If the learner uses own rows at home without noise, the federated score of a training row comes from a model
that did not see its unit (`Scorer.held_out`). Otherwise it is the score of the received model, which has seen the row,
under its noise. On public data that raises the weight of the federated score by about .08, and changes the AUC by less
than .001 (docs/design/0024-joined.md).

These models saw own rows without DP, so they never leave (invariant 17). Only the participant's own receipt and model
files hold them, and `consortia export` refuses them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from clients._labels import bits
from clients.dataset import Table
from clients.industry import IndustryClient
from consortia.participant import stack
from consortia.participant.baseline import Baseline
from consortia.participant.evaluation import Scores
from consortia.participant.own_model import JoinedModel, Scorer
from consortia.participant.stack import Stack

__all__ = ["ENOUGH", "OF_A_CLASS", "Stacked", "control", "joined"]

ENOUGH, OF_A_CLASS = 200, 20


@dataclass(frozen=True)
class Stacked:
    """Two models as one.

    Attributes
    ----------
    stack : Stack
    rows : "validation", "validation and training", or "training" (anomalies)
        The rows that the stack was fitted on.
    """

    own: Scorer
    other: Scorer
    stack: Stack
    rows: str

    @property
    def scorer(self) -> Scorer:
        """The stack as a scorer, like the receipt's other models."""
        return Scorer(
            lambda table: np.asarray(self.stack(*(torch.from_numpy(one(table)) for one in (self.own, self.other)))),
            lambda: JoinedModel(self.own.model(), self.other.model(), self.stack),
        )


def joined(client: IndustryClient, base: Baseline, federated: Scorer, validation: Table) -> Stacked:
    """Stack the best own model with the federated score."""
    seen = federated(base.rows) if federated.held_out is None else federated.held_out[base.places]
    return _stacked(client, base, federated, seen, validation)


def control(client: IndustryClient, base: Baseline, validation: Table) -> Stacked:
    """Stack the best own model with the best one of another kind; with itself if there is no other."""
    second = base.second or base.alone
    return _stacked(client, base, second.scorer, second.out_of_fold, validation)


def _stacked(client: IndustryClient, base: Baseline, other: Scorer, seen: Scores, validation: Table) -> Stacked:
    if client.schema.target.kind == "anomaly":  # scaled by ordinary rows: the training rows are nothing else
        fitted = stack.fit(client.schema.target, np.zeros(len(seen)), base.alone.out_of_fold, seen)
        return Stacked(base.alone.scorer, other, fitted, "training")
    pairs = [(validation, base.alone.scorer(validation), other(validation))]
    enough = _enough(client, validation)
    if not enough:
        pairs.append((base.rows, base.alone.out_of_fold, seen))
    labels = np.concatenate([np.asarray(table.target, dtype=np.float64) for table, _, _ in pairs])
    first, second = (np.concatenate([pair[place] for pair in pairs]) for place in (1, 2))
    fitted = stack.fit(client.schema.target, labels, first, second)
    return Stacked(base.alone.scorer, other, fitted, "validation" if enough else "validation and training")


def _enough(client: IndustryClient, validation: Table) -> bool:
    if validation.n_units < ENOUGH:
        return False
    if not client.schema.target.classes:
        return True
    first_rows = np.unique(np.asarray(validation.unit_index), return_index=True)[1]
    target = np.asarray(validation.target)[first_rows]
    if client.schema.target.kind == "multilabel":  # the rarer side of the rarest label
        there = bits(target, client.schema.target.outputs).sum(0)
        return bool(np.minimum(there, len(target) - there).min() >= OF_A_CLASS)
    counts = np.bincount(target.astype(int), minlength=2)
    return int(counts.min()) >= OF_A_CLASS
