"""Improves the forecast before joining, at home, with the participant's own rows.

**It stays at home.** It reads own rows without noise: their number, the share of the positive class, the covariance of
their columns, and the cross-validated result of the best own model. It is not charged, because it is not released: it
is printed for the owner and is in no message, header or file. But the owner's decision is visible. A participant that
joins or stays away because of this forecast reveals that much about its rows, and no budget pays for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clients import registry
from clients.dataset import Table
from clients.errors import ClientError
from consortia.common.errors import InputError, RefusedError
from consortia.learners.sums.forecast import (
    Others,
    effective_rows,
    expected_gain,
    own_effective_columns,
    word_of,
)
from consortia.participant.baseline import Baseline, baseline
from consortia.participant.data import split_masks
from consortia.participant.evaluation import client_for, headline
from consortia.participant.home import Home
from consortia.participant.own_sums import rows_of
from consortia.participant.rows import checked, read_rows
from consortia.terms.contract import Contract
from consortia.terms.forecast import METRIC, Forecast, others_of, predicts_gain
from consortia.terms.policy import policy_or_input_error
from consortia.terms.recipe import recipe
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario

__all__ = ["OWN", "OwnNumbers", "at_home", "forecast", "own_numbers"]

OWN = "public numbers and own rows; stays at home"


@dataclass(frozen=True)
class OwnNumbers:
    """Numbers from a participant's own training rows.

    Attributes
    ----------
    units : training units.
    columns : d of its rows, see `consortia.learners.sums.forecast`.
    variance : variance of a row's deviation from the public expectation; p (1 - p) for a binary target.
    best : the best own model's AUC in cross-validation; None if undefined.
    """

    units: int
    columns: float
    variance: float
    best: float | None


def own_numbers(contract: Contract, industry: str, train: Table, base: Baseline) -> OwnNumbers:
    """Compute the numbers from own rows; `base` is the search among own models on them."""
    rule = recipe(contract, industry)
    if rule.outcome.kind == "binary":
        # One row of each class is added: a sample without a positive row does not prove that there are none.
        share = (float(train.target.double().sum()) + 1) / (len(train.target) + 2)
        variance = share * (1 - share)
    else:
        variance = float(np.mean(rule.outcome.variances))
    led_by = headline(registry.get(industry), base.rows.measured) if base.tried else ""
    values = [value for *_, value in base.tried if math.isfinite(value)]
    best = max(values) if values and led_by == METRIC else None
    columns = own_effective_columns(rule.columns, rule.encoded(rows_of(train)).features.nan_to_num())
    return OwnNumbers(train.n_units, columns, variance, best)


def forecast(own: OwnNumbers, others: Others, *, gain: bool) -> Forecast:
    """Return the forecast from the others' public numbers and the own rows.

    A model with an AUC of .99 alone cannot gain more than .01, so the forecast is limited to that.
    """
    rows = effective_rows(others, own.variance / own.columns)
    most = 0.5 if own.best is None else 1 - own.best
    found = expected_gain(own.units, rows, own.variance, most) if gain else None
    return Forecast(own.units, rows, found, word_of(own.units, rows, found), OWN)


def at_home(home: Home, scenario: Scenario) -> Forecast:
    """Read the training rows of a home's participant and return its forecast. Nothing is pinned or charged.

    Raises
    ------
    InputError
        The scenario has another learner or lacks the participant, or the rows cannot be read.
    """
    name = home.participant
    if name not in [participant.name for participant in scenario.roster]:
        raise InputError(f"participant: wanted one of the roster of {scenario.name}, got {name!r}")
    participant = scenario.participant(name)
    scenario = scenario.of(participant.industry)
    contract = scenario.contract
    if contract.sums is None:
        raise InputError(f'contract.learner: wanted "sums" for a forecast from own rows, got {contract.learner!r}')
    try:
        train = _training_rows(home, scenario, participant)
    except RefusedError as error:
        raise InputError(error.detail) from None
    except ClientError as error:
        raise InputError(str(error)) from None
    if not len(train.target):
        raise InputError(f"dataset.{participant.dataset}: wanted training rows, got none")
    own = own_numbers(contract, participant.industry, train, baseline(contract, participant.industry, train, name))
    return forecast(own, others_of(scenario, name), gain=predicts_gain(participant.industry))


def _training_rows(home: Home, scenario: Scenario, participant: RosterParticipant) -> Table:
    policy = policy_or_input_error(home.policy, simulation=True)
    terms = policy.dataset.get(participant.dataset)
    if terms is None or terms.industry != participant.industry:
        raise InputError(
            f"{home.policy}: wanted dataset.{participant.dataset} of industry {participant.industry}, got none; add it"
        )
    client, key = client_for(terms), home.split_key()
    where = f"dataset.{participant.dataset}"
    frame = read_rows(terms, client, scenario.contract.seed, key=where)
    table = checked(frame, terms, client, scenario.contract, key=key, where=where)
    return table.take(split_masks(table, client, terms.site, scenario.contract, key)["train"])
