"""The verdict before joining: for each participant of a scenario what the others are worth, from public numbers alone.

It reads contract and roster: declared units, proposed budgets, the columns of the schema, the contract's public
expectation of the target. No row, policy or ledger. So it is nobody's release, and anybody can compute it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from clients import registry
from consortia.learners.blocks.parts import Part
from consortia.learners.blocks.release import deviations
from consortia.learners.sums.combine import precision_weights
from consortia.learners.sums.forecast import (
    WORDS,
    Gain,
    Others,
    effective_columns,
    effective_rows,
    expected_gain,
    total_noise,
    word_of,
)
from consortia.learners.sums.model import Recipe
from consortia.terms.contract import Contract, clip_of
from consortia.terms.recipe import recipe
from consortia.terms.scenario import Scenario
from consortia.terms.settle import sigma_of
from privacy.secure_sum.fixed_point import INFLATION

__all__ = [
    "FILE",
    "METRIC",
    "PUBLIC",
    "Forecast",
    "forecast_from_header",
    "forecasts",
    "others_of",
    "predicts_gain",
]

#: The metric of expected net gains: the only one that they were measured in.
METRIC: Final = "auc"
PUBLIC: Final = "public numbers"
#: Name of the coordinator's file, and of each participant's own.
FILE: Final = "forecast.json"


@dataclass(frozen=True)
class Forecast:
    """What a participant can expect.

    Attributes
    ----------
    units : training units of its own.
    effective_rows : N_eff, to how many further rows of its own the others amount.
    gain : net gain of AUC with an interval; None where the target is not binary.
    verdict : "worth it", "little" or "not worth it".
    basis : what it was made from.
    """

    units: int
    effective_rows: float
    gain: Gain | None
    verdict: str
    basis: str = PUBLIC

    def to_json(self) -> dict[str, Any]:
        """Return it as records and messages have it."""
        return {**asdict(self), "metric": METRIC}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Forecast:
        """Read `to_json` of public numbers; ValueError, KeyError or TypeError for anything else."""
        told = data["gain"]
        gain = None if told is None else Gain(*(float(told[end]) for end in ("value", "low", "high")))
        numbers = [float(data["units"]), float(data["effective_rows"])]
        numbers += [] if gain is None else [gain.value, gain.low, gain.high]
        if not all(math.isfinite(number) for number in numbers) or min(numbers[:2]) < 0:
            raise ValueError("forecast: wanted finite numbers, got others")
        if data["verdict"] not in WORDS or data["metric"] != METRIC or data["basis"] != PUBLIC:
            raise ValueError(f"forecast: wanted one of {', '.join(WORDS)} for {METRIC} from {PUBLIC}, got another")
        return cls(int(data["units"]), numbers[1], gain, str(data["verdict"]))


def forecast_from_header(header: Mapping[str, str]) -> Forecast | None:
    """Return what the header of a message expects; None where it expects nothing."""
    return Forecast.from_json(json.loads(header["forecast"])) if "forecast" in header else None


def forecasts(scenario: Scenario) -> dict[str, Forecast]:
    """Return the forecast of each participant; nobody's where the learner is not `sums`, for which it was measured.

    Raises
    ------
    InputError
        When a budget cannot be met.
    """
    found = {}
    for part in scenario.parts():
        contract = part.contract
        for participant in part.roster if contract.sums is not None else ():
            others = others_of(part, participant.name)
            rule, own = recipe(contract, participant.industry), contract.split.training_units(participant.units)
            variance = float(np.mean(rule.outcome.variances))
            rows = effective_rows(others, variance / effective_columns(rule.columns))
            gain = expected_gain(own, rows, variance) if predicts_gain(participant.industry) else None
            found[participant.name] = Forecast(own, rows, gain, word_of(own, rows, gain))
    return found


def predicts_gain(industry: str) -> bool:
    """Return whether an industry's net gain is expected: in AUC, of a binary target."""
    return registry.get(industry).schema.target.kind == "binary"


def others_of(scenario: Scenario, name: str) -> Others:
    """Return the other participants of the same industry, as the sums without one's own part count them."""
    industry = scenario.participant(name).industry
    contract = scenario.of(industry).contract
    participants = [participant for participant in scenario.roster if participant.industry == industry]
    others = [participant for participant in participants if participant.name != name]
    units = tuple(float(contract.split.training_units(participant.units)) for participant in others)
    multipliers = [sigma_of(contract, participant) or 0.0 for participant in others]
    rule = recipe(contract, industry)
    if contract.trust == "aggregate":
        return _in_secure_sum(contract, rule, industry, units, multipliers)
    parts = [Part((), z, n) for z, n in zip(multipliers, units, strict=True)]
    weights = precision_weights(rule, parts) if parts else []
    noise = [deviations(rule, 2, z)[1] if z else 0.0 for z in multipliers]
    return Others(units, tuple(weights), total_noise(noise, weights))


def _in_secure_sum(
    contract: Contract, rule: Recipe, industry: str, units: tuple[float, ...], multipliers: Sequence[float]
) -> Others:
    """Return the others of a secure sum: each member's share of the noise counts on t colluders and the drops."""
    terms = contract.secure_terms
    weights = tuple(clip_of(contract, contract.industries[industry], z) for z in multipliers)
    counted = max(1, len(units) + 1 - terms.colluders - terms.drops)
    share = (terms.noise or 0.0) * (1 + INFLATION) / math.sqrt(counted)
    factor = rule.sensitivities(2)[1] / math.sqrt(rule.shares.of(2)[1])
    return Others(units, weights, len(units) * (share * factor) ** 2)
