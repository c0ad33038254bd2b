"""The rule behind `learner = "auto"`: noisy sums, noisy histograms, few steps or a network, from public numbers alone.

It reads what a scenario says: declared units, proposed budgets, participants, trust, the columns and the target of the
public schema, and whether the contract has terms of a network. No row, no ledger, no policy. So the choice is nobody's
release, and anybody can make it again.

One number decides between sums and histograms: how many rows' worth the noise leaves to histograms, which have many
numbers. With N rows and noise of variance v in a cell's gradient, averaged over T rounds, it is

    N / (1 + v / (T N c d / cells))

(c: variance of the target by its public expectation, d: columns): N_eff of the forecast, of all participants together
and for cells instead of directions. Where rows are few, N_eff of the sums' own directions decides between sums and a
linear model by few gradients of all rows (`few_steps`): below a tenth of the rows, noise weighs nine times what they
do, and the sums' many columns (polynomials, products of pairs) only carry it. docs/design/0030-a-rule-that-chooses.md
and 0050-few-steps.md say what was measured, and what the rule does not know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from clients import registry
from clients.errors import ClientError, SchemaError
from clients.industry import effective_schema
from consortia.common.errors import InputError
from consortia.common.strict import parse
from consortia.learners.additive.boosting import curvatures
from consortia.learners.additive.model import Recipe
from consortia.learners.blocks.parts import Part, weights_for
from consortia.learners.blocks.release import deviations
from consortia.learners.sums.combine import precision_weights
from consortia.learners.sums.forecast import Others, effective_columns, effective_rows, total_noise
from consortia.terms.choice import Choice, Chosen, Learner, explicit, network_terms, rows_alone, settled_terms
from consortia.terms.contract import Contract, clip_of
from consortia.terms.contract_fields import Split, TrainingTerms
from consortia.terms.learners import with_constants
from consortia.terms.recipe import additive_recipe, recipe
from consortia.terms.roster import RosterParticipant
from consortia.terms.settle import settle, sigma_of
from privacy.secure_sum.fixed_point import INFLATION

__all__ = ["ENOUGH", "TENTH", "rows_left", "rows_left_by_sums", "with_choice"]

#: From how many rows' worth on histograms are better than sums.
ENOUGH: Final = 700
#: Which share of the rows noise must leave to sums; below it a linear model by few steps is better.
TENTH: Final = 0.1


def with_choice(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a written scenario whose contract names every learner, with `chosen` beside it.

    Raises
    ------
    InputError
        When the contract or the roster is wrong in itself, or nothing that it allows can be chosen.
    """
    contract = data["contract"]
    industries, tables, lines = contract.get("industries"), contract.get("by_industry", {}), data.get("roster")
    if not isinstance(industries, dict) or not isinstance(tables, dict) or not isinstance(lines, list):
        return dict(data)  # what is no table is refused where it is read
    if not all(isinstance(one, dict) for one in (*industries.values(), *tables.values(), *lines)):
        return dict(data)
    roster = [parse(RosterParticipant, line, f"{where}: roster") for line in lines]

    def choose(industry: str) -> Choice:
        terms = tables.get(industry) or {k: v for k, v in contract.items() if k in TrainingTerms.model_fields}
        members = [participant for participant in roster if participant.industry == industry]
        return _chosen(contract, terms, industry, members, where)

    written, found = explicit(contract, choose)
    return {**data, "contract": written, "chosen": Chosen(industries=found, written=contract).model_dump()}


def rows_left(contract: Contract, industry: str, members: Sequence[RosterParticipant]) -> float:
    """Return how many rows' worth the noise leaves to histograms, see the module.

    Parameters
    ----------
    contract : with the learner `additive`, its secure sums settled.
    members : all participants of the industry, one at least.
    """
    rule = additive_recipe(contract, industry)
    units, multipliers = _units_and_noise(contract, members)
    row = float(curvatures(rule.outcome).mean()) * len(rule.cells.terms) / rule.cells.size
    weights, noise = _noise(contract, rule, industry, units, multipliers, row)
    rounds = rule.shares.messages - 1
    return effective_rows(Others(units, weights, noise / rounds), row)


def rows_left_by_sums(contract: Contract, industry: str, members: Sequence[RosterParticipant]) -> float:
    """Return how many rows' worth the noise leaves to the products of all rows with the target.

    Parameters
    ----------
    contract : with the learner `sums`, its secure sums settled.
    members : all participants of the industry, one at least.
    """
    rule = recipe(contract, industry)
    units, multipliers = _units_and_noise(contract, members)
    if contract.trust == "aggregate" and all(multipliers):
        weights, noise = _shared(contract, industry, multipliers, rule.sensitivities(2)[1], rule.shares.of(2)[1])
    else:
        parts = [Part((), z, n) for z, n in zip(multipliers, units, strict=True)]
        weights = tuple(precision_weights(rule, parts))
        noise = total_noise([deviations(rule, 2, z)[1] if z else 0.0 for z in multipliers], weights)
    scatter = float(np.mean(rule.outcome.variances)) / effective_columns(rule.columns)
    return effective_rows(Others(units, weights, noise), scatter)


def _units_and_noise(contract: Contract, members: Sequence[RosterParticipant]) -> tuple[tuple[float, ...], list[float]]:
    """Return each member's declared units that train, and its noise multiplier; 0 without noise."""
    units = tuple(float(contract.split.training_units(participant.units)) for participant in members)
    return units, [sigma_of(contract, participant) or 0.0 for participant in members]


def _noise(
    contract: Contract, rule: Recipe, industry: str, units: Sequence[float], multipliers: Sequence[float], row: float
) -> tuple[tuple[float, ...], float]:
    """Return each member's weight in a sum of gradients, and the variance of all noise in one of its numbers."""
    if contract.trust == "aggregate" and all(multipliers):
        return _shared(contract, industry, multipliers, rule.sensitivities(2)[0], rule.shares.of(2)[0])
    deviation = [deviations(rule, 2, z)[0] if z else 0.0 for z in multipliers]
    weights = tuple(weights_for(deviation, float(np.mean(units)) * row))
    return weights, total_noise(deviation, weights)


def _shared(
    contract: Contract, industry: str, multipliers: Sequence[float], sensitivity: float, share_of_budget: float
) -> tuple[tuple[float, ...], float]:
    """Return the same of a secure sum, for a block with this sensitivity and share of the budget."""
    terms = contract.secure_terms
    weights = tuple(clip_of(contract, contract.industries[industry], z) for z in multipliers)
    counted = max(1, len(multipliers) - terms.colluders - terms.drops)
    share = (terms.noise or 0.0) * (1 + INFLATION) / math.sqrt(counted)
    factor = sensitivity / math.sqrt(share_of_budget)
    return weights, len(multipliers) * (share * factor) ** 2


def _only(terms: Any, industry: str) -> Any:
    """Return a table of a learner without what it says of other industries: every table in it is by industry."""
    if not isinstance(terms, Mapping):
        return terms
    return {
        key: {name: said for name, said in value.items() if name == industry} if isinstance(value, Mapping) else value
        for key, value in terms.items()
    }


def _candidate(
    contract: Mapping[str, Any],
    terms: Mapping[str, Any],
    industry: str,
    members: Sequence[RosterParticipant],
    learner: Learner,
    where: str,
) -> Contract:
    """Return the contract that one industry would have with this learner, its secure sums settled."""
    alone = {key: value for key, value in contract.items() if key not in TrainingTerms.model_fields}
    alone = {key: value for key, value in alone.items() if key != "by_industry"}
    alone |= settled_terms(terms, learner) | {"industries": {industry: rows_alone(contract["industries"][industry])}}
    alone[learner] = _only(alone[learner], industry)
    return settle(parse(Contract, with_constants(alone), where), members)


def _chosen(
    contract: Mapping[str, Any],
    terms: Mapping[str, Any],
    industry: str,
    members: Sequence[RosterParticipant],
    where: str,
) -> Choice:
    try:
        schema = effective_schema(registry.get(industry), filter=contract["industries"][industry].get("filter"))
    except (ClientError, SchemaError) as error:
        raise InputError(f"{where}: contract.industries.{industry}: {error}") from None
    networked = network_terms(contract, industry)
    split = parse(Split, contract.get("split", {}), f"{where}: contract.split")
    units = sum(split.training_units(participant.units) for participant in members)
    only = ""
    if schema.target.kind == "multilabel":
        only = "its rows have several labels, which only a network learns"
    if schema.target.kind == "anomaly":
        only = "it learns no label, which only a network can do without"
    if schema.shape is not None:
        only = "its rows are images or sequences, which only a network reads as such"
    if terms.get("trust") == "coordinator":
        only = 'trust = "coordinator" adds noise to the change of a network'
    if only:
        if not networked:
            raise InputError(
                f"{where}: contract.industries.{industry}: wanted local_steps, sampling_rate, clip and learning_rate "
                f"of a network, got none: {only}"
            )
        return Choice(learner="gradient", why=only, units=units)
    if units < ENOUGH:
        why = f"{units} training units in all, fewer than the {ENOUGH} that histograms need"
        sums = Choice(learner="sums", why=why, units=units)
        if schema.target.kind != "binary":  # few steps were measured for those alone
            return sums
        try:
            candidate = _candidate(contract, terms, industry, members, "sums", where)
        except InputError:
            return sums  # refused where it is read, which names the key
        left = rows_left_by_sums(candidate, industry, members)
        if left >= TENTH * units:
            return sums
        why += f"; noise leaves sums the worth of {left:.0f}, fewer than a tenth: a linear model by few steps"
        return Choice(learner="gradient", why=why, units=units, few_steps=True)
    candidate = _candidate(contract, terms, industry, members, "additive", where)
    left = rows_left(candidate, industry, members)
    told = f"noise leaves histograms the worth of {left:.0f} of {units} training units"
    if left < ENOUGH:
        return Choice(learner="sums", why=f"{told}, fewer than {ENOUGH}", units=units, rows_left=left)
    return Choice(learner="additive", why=f"{told}, at least {ENOUGH}", units=units, rows_left=left)
