"""The federated model of the learner `sums` at home: fitted to the others' sums and the own rows.

**It saw own rows without noise, so it never leaves**: neither its weights, nor its scores, nor their metrics. It is not
charged, because it is not released. Only the model of the released sums alone is public; it came with the last message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients.dataset import Table
from clients.models import predictions
from consortia.learners.sums.model import CENTRE, RADIUS, WEIGHTS, Recipe
from consortia.learners.sums.solution import FOLDS, AtHome, Own, Released
from consortia.learners.sums.statistics import prepared
from consortia.messages.sums import NO_PART, ToHome, split
from consortia.participant.evaluation import module_scorer
from consortia.participant.own_model import Scorer
from consortia.participant.own_sums import Sent, rows_of
from consortia.terms.contract import Contract
from consortia.terms.recipe import recipe
from consortia.terms.scopes import build_module, load_state
from privacy.randomness import numpy_generator

__all__ = ["SumsAtHome"]


@dataclass(frozen=True)
class SumsAtHome:
    """Everything that a participant needs to finish the model on its own rows.

    Attributes
    ----------
    received : the received model of the released sums alone.
    others : the other participants' sums.
    """

    contract: Contract
    industry: str
    participant: str
    received: Mapping[str, Tensor]
    others: Released

    @classmethod
    def of(
        cls,
        participant: str,
        part: Sent | None,
        contract: Contract,
        industry: str,
        model: Mapping[str, Tensor],
        beside: Mapping[str, Tensor],
    ) -> SumsAtHome:
        """Subtract the own part, exactly as it was sent, from the sums of the last message.

        Parameters
        ----------
        part : Sent or None
            What `participant` sent last.

        Raises
        ------
        ValueError
            The received sums are not valid, or the coordinator counted another part than the one that was sent.
        """
        rule = recipe(contract, industry)
        came = ToHome.from_tensors(rule, beside)
        others = came.released
        if came.own.key != NO_PART:
            if part is None or part.key != came.own.key:
                raise ValueError("sums: the part that was counted is not the one that this participant sent last")
            others = others.less(_weighted(rule, part, came))
        return cls(contract, industry, participant, model, others)

    def fit(self, train: Table) -> Scorer:
        """Return the model fitted to the others' sums and these rows. `held_out` scores each row without its unit."""
        torch.set_num_threads(1)
        rule = self._recipe
        rows = rule.encoded(rows_of(train))
        centre, radius = self.received[CENTRE], self.received[RADIUS]
        x, deviations = prepared(rule.columns, rule.outcome, rows, centre, radius)
        own = Own(np.asarray(x), np.asarray(deviations), np.asarray(rows.unit_index))
        weights, held = AtHome(self.others, rule.outcome).weights(own, self._folds)
        module = build_module(self.contract, self.industry)
        load_state(module, {**self.received, WEIGHTS: torch.from_numpy(weights)})
        outputs = rule.outcome.outputs(torch.from_numpy(held) / rows.shares().sqrt())
        return replace(module_scorer(module), held_out=np.asarray(predictions(module.target, outputs)))

    def _folds(self, units: int) -> NDArray[np.int64]:
        return numpy_generator("sums folds", self.participant).permutation(units) % FOLDS

    @property
    def _recipe(self) -> Recipe:
        return recipe(self.contract, self.industry)


def _weighted(rule: Recipe, part: Sent, came: ToHome) -> Released:
    """Return the own part of the sums: the sent blocks times the weight that the coordinator applied."""
    weight = came.own.weight
    gram, slope = split(rule, [block * weight for block in part.blocks])
    of_gram, of_slope = (deviation * weight for deviation in part.deviations)
    return Released(gram, slope, of_gram, of_slope, came.own.units)
