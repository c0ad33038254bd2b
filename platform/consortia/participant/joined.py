"""What a participant really uses: its own best model stacked with what the others know, and the control beside it.

* `alone`: the best model of its own (`consortia.participant.baseline`).
* `control`: that one stacked with a second model of its own.
* `joined`: that one stacked with the federated score.

The net gain of joining is (joined - alone) - (control - alone): what others add beyond a second opinion of one's own.

On which rows a stack is fitted
-------------------------------
On scores of rows that the scored models did not see, as far as that is possible. Validation rows are such rows. Where
these are of fewer than `ENOUGH` units, or of fewer than `OF_A_CLASS` units of the rarer class, training rows are added:
own scores out of fold, the federated score as it is. The federated model has seen them, under its noise; a learner that
uses own rows at home without noise gives out-of-fold scores (`CrossFitted`). On public data that raises the federated
score's weight by about .08 and the AUC by less than a thousandth either way (docs/design/0020-joined.md).

All of it saw own rows without DP, so none of it ever leaves (invariant 17): no file but the participant's own receipt
and models has it, and `consortia export` refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from clients.dataset import Table
from clients.industry import IndustryClient
from consortia.participant import stack
from consortia.participant.baseline import Baseline, Own
from consortia.participant.evaluation import CrossFitted, FederatedScore, Scores
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
    rows : "validation", or "validation and training"
        What it was fitted on.
    """

    own: Own
    other: FederatedScore
    stack: Stack
    rows: str

    def score(self, table: Table) -> Scores:
        """Return the scores of a table."""
        parts = (torch.from_numpy(model.score(table)) for model in (self.own.scorer, self.other))
        return np.asarray(self.stack(*parts))

    def model(self) -> JoinedModel | None:
        """Return it as data; None where the other model has no such form."""
        if not isinstance(self.other, Scorer):
            return None
        return JoinedModel(self.own.scorer.model(), self.other.model(), self.stack)


def joined(client: IndustryClient, base: Baseline, federated: FederatedScore, validation: Table) -> Stacked:
    """Stack the best own model with the federated score."""
    if isinstance(federated, CrossFitted):
        seen = federated.out_of_fold(base.rows, base.fold)
    else:
        seen = federated.score(base.rows)
    return _stacked(client, base, federated, seen, validation)


def control(client: IndustryClient, base: Baseline, validation: Table) -> Stacked:
    """Stack the best own model with the best of another kind; with itself where there is no other."""
    second = base.second or base.alone
    return _stacked(client, base, second.scorer, second.out_of_fold, validation)


def _stacked(client: IndustryClient, base: Baseline, other: FederatedScore, seen: Scores, validation: Table) -> Stacked:
    pairs = [(validation, base.alone.scorer(validation), other.score(validation))]
    enough = _enough(client, validation)
    if not enough:
        pairs.append((base.rows, base.alone.out_of_fold, seen))
    labels = np.concatenate([np.asarray(table.target, dtype=np.float64) for table, _, _ in pairs])
    first, second = (np.concatenate([pair[place] for pair in pairs]) for place in (1, 2))
    fitted = stack.fit(client.schema.target, labels, first, second)
    return Stacked(base.alone, other, fitted, "validation" if enough else "validation and training")


def _enough(client: IndustryClient, validation: Table) -> bool:
    if validation.n_units < ENOUGH:
        return False
    if not client.schema.target.classes:
        return True
    first_rows = np.unique(np.asarray(validation.unit_index), return_index=True)[1]
    counts = np.bincount(np.asarray(validation.target)[first_rows].astype(int), minlength=2)
    return int(counts.min()) >= OF_A_CLASS
