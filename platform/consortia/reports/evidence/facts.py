"""Collects what an evidence pack rests on: `facts.json`, released and public values of one finished run.

Guarantee: every value is named here. Of a participant these are its line in the roster, what it declared to the
coordinator, and what it released. Not taken, though the record of a simulation holds them: counts of rows, receipts,
metrics that were not released, ε of a lifetime, times, and texts that came with a failure.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from clients import registry
from clients.tables import known_from
from consortia.common.errors import InputError
from consortia.common.strict import read_record
from consortia.models.fairness import fairness_of_record
from consortia.reports.evidence.schema import schema_of
from consortia.reports.page.closing import model_words
from consortia.terms.contract_fields import IndustryTerms
from consortia.terms.scenario import Scenario, scenario_from_json
from consortia.trust.passport import known_passport
from consortia.trust.passport.leave import check_whole
from privacy.events import RELATION

__all__ = ["collect"]

_RUN: Final = ("run_id", "scenario", "contract_sha256", "status", "rounds", "engine", "observer", "charged", "noise")
_ACCOUNT: Final = ("run", "budget", "delta", "unit", "non_private", "metrics_non_private", "metrics")
_STANDING: Final = ("industry", "state", "rounds_contributed", "noise_multiplier")


def collect(folder: Path) -> dict[str, Any]:
    """Return the facts of a run, as JSON-able data.

    Parameters
    ----------
    folder : Path
        The coordinator's folder of a finished run; a run that failed or ran out of budget is finished, too.

    Raises
    ------
    InputError
        There is no finished run, it is vertical, or somebody's leaving was interrupted.
    """
    if not (folder / "result.json").is_file() or not (folder / "scenario.json").is_file():
        raise InputError(f"{folder}: wanted the folder of a finished run with result.json, got none")
    check_whole(folder)
    known_from(folder)
    result = read_record(folder / "result.json")
    scenario = scenario_from_json((folder / "scenario.json").read_text(encoding="utf-8"))
    if scenario.contract.vertical is not None:
        raise InputError(
            f"{folder}: wanted a horizontal run, got a vertical one, whose model stays with the label owner; "
            "`consortia report` says what each side disclosed, docs/guarantees.md what that protects"
        )
    if scenario.contract.sha256() != result["contract_sha256"]:
        raise InputError(f"{folder}: wanted the contract that result.json names in scenario.json, got another one")
    left = result.get("left", {})
    withdrawn = {one["industry"] for one in left.values()}
    treated = {one.industry: one.as_json() for one in fairness_of_record(result)}
    return {
        "schema": 1,
        "run": {
            **{key: result[key] for key in _RUN},
            "reason": result["reason"],
            "planned_rounds": scenario.rounds,
            "title": scenario.title,
            "rows": _rows(result),
        },
        "passport": known_passport(folder).get("passport_sha256"),
        "left": left,
        "contract": json.loads(scenario.contract.canonical()),
        "industries": {
            name: {**_industry(scenario, name, result), "fairness": treated.get(name)}
            for name in sorted(scenario.contract.industries)
        },
        "participants": {
            name: _participant(scenario, name, line, withdrawn) for name, line in result["participants"].items()
        },
        "central": result.get("central"),
        "environment": result.get("environment", {}),
        "files": result.get("files", {}),
    }


def _rows(result: Mapping[str, Any]) -> str:
    """Return what is known of the rows: a deployed coordinator knows nothing of them."""
    if result["observer"] != "simulation":
        return "unknown"
    if not result["synthetic"]:
        return "real"
    lines = result["participants"].values()
    return "mixed" if any(line.get("synthetic") is False for line in lines) else "synthetic"


def _industry(scenario: Scenario, name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    contract = scenario.contract.of(name)
    terms: IndustryTerms = contract.industries[name]
    client = registry.get(name)
    models = [
        file
        for file in result.get("files", {})
        if file in {f"model/{name}.safetensors", "model/consortium.safetensors"}
    ]
    return {
        "title": client.title,
        "learner": contract.learner,
        "strategy": contract.strategy.name if contract.noisy_sums is None else None,
        "trust": contract.trust,
        "colluders": contract.secure.colluders
        if contract.secure is not None and contract.trust == "aggregate"
        else None,
        "shared": len(scenario.contract.industries) == 1 or "consortium" in contract.scopes.named,
        "releases": list(contract.releases),
        "metrics": contract.evaluation.metrics,
        "split": terms.split,
        "client_sha256": terms.client or None,
        "private_parts": sorted(part for part, scope in contract.scopes.model_dump().items() if scope == "private"),
        "model": model_words(terms),
        "model_files": models,
        "schema": schema_of(client.schema),
        "participants": [each.name for each in scenario.roster if each.industry == name],
    }


def _participant(
    scenario: Scenario, name: str, line: Mapping[str, Any], withdrawn: Collection[str] = ()
) -> dict[str, Any]:
    proposed = scenario.participant(name)
    account = {key: line["epsilon"].get(key) for key in _ACCOUNT}
    return {
        **{key: line.get(key) for key in _STANDING},
        "declared_units": proposed.units,
        "dataset": proposed.dataset,
        "proposed": {
            "epsilon": None if proposed.non_private else proposed.epsilon,
            "non_private": proposed.non_private,
            "delta": proposed.delta,
            "unit": proposed.unit or None,
        },
        "epsilon": {**account, "horizon": "this run", "relation": RELATION, "guess": _guess(account)},
        "metrics": {
            kind: {"release": one["release"], "value": one["released_value"], "interval": one.get("interval")}
            for kind, one in line["metrics"].items()
            # Where somebody left the metrics are of a withdrawn model.
            if one.get("release") and one.get("released_value") is not None and line["industry"] not in withdrawn
        },
        "failures": dict(sorted(Counter(failure["code"] for failure in line["failures"]).items())),
    }


def _guess(account: Mapping[str, Any]) -> float | None:
    """Return the largest chance of a right guess whether a unit took part, at even odds before.

    Kairouz, Oh & Viswanath 2015, theorem 2.1: an (epsilon, delta)-DP release leaves a test of the two neighbours with
    both errors at least (1 - delta) / (1 + exp(epsilon)) where they are equal. None where nothing is promised.
    """
    if account["non_private"] or account["run"] is None or account["delta"] is None:
        return None
    return 1 - (1 - float(account["delta"])) / (1 + math.exp(float(account["run"])))
