"""Records as DataFrames: every ε beside its δ, unit, relation and horizon; infinite for a non-private release."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from consortia.common.errors import ArgumentError, RefusedError
from consortia.common.words import verdict
from consortia.participant.account import history as chain
from consortia.participant.account import summary
from consortia.participant.home import Home
from consortia.reports.page.facts import Facts
from consortia.reports.spent_by_round import curve
from consortia.terms.policy import policy_or_input_error
from privacy.errors import PrivacyError
from privacy.events import RELATION
from privacy.ledger import Ledger

INFERRED = (
    "inferred from the rows of all participants, which is for simulation by one person and not private; ε holds for "
    "the updates, given this schema"
)
_MODELS = ("majority", "local", "control", "federated", "joined", "personal", "kept")
_GAINS = ("net_gain", "gain")
_ENDS = ("low", "high")
_RECEIPT = (
    *("industry", "state", "metric", *_MODELS),
    *(name for gain in _GAINS for name in (gain, *(f"{gain}_{end}" for end in _ENDS))),
    *("verdict", "keeps", "units", "quarantined"),
    *("epsilon_run", "budget_run", "delta_run", "epsilon_lifetime", "budget_lifetime", "delta_lifetime"),
    *("unit", "relation", "synthetic"),
)
_LEDGER = ("time", "what", "dataset", "run", "round", "epsilon_alone", "delta", "unit", "relation", "detail")
_SPENT = (
    *("participant", "dataset", "horizon", "epsilon", "delta", "budget", "left", "unit", "relation", "non_private"),
    "releases",
)
_HISTORY = ("round", "participant", "metric", "value", "epsilon", "budget", "delta", "unit", "relation")


def receipts(
    result: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]], metric: str | None = None
) -> pd.DataFrame:
    """See `consortia.Run.receipts`; `own` are the participants' receipts that the reader may see."""
    known = sorted({name for participant in result["participants"].values() for name in participant["metrics"]})
    if metric is not None and metric not in known:
        raise ArgumentError(f"metric: wanted one of {', '.join(known)}, got {metric!r}")
    lines = {
        name: _receipt(participant, own.get(name, {}), metric) for name, participant in result["participants"].items()
    }
    names = list(_RECEIPT)
    if "placebo" in result:
        for name, participant in result["placebo"]["participants"].items():
            transfer = participant["transfer"] or {}
            lines[name] |= {"transfer": transfer.get("value")} | {
                f"transfer_{end}": transfer.get(end) for end in ("low", "high")
            }
        names += ["transfer", "transfer_low", "transfer_high"]
    table = pd.DataFrame.from_dict(lines, orient="index", columns=names)
    table.index.name = "participant"
    return _numbers(table, {"industry", "state", "metric", "verdict", "keeps", "unit", "relation", "synthetic"})


def _receipt(participant: Mapping[str, Any], own: Mapping[str, Any], wanted: str | None) -> dict[str, Any]:
    leading = participant.get("headline") or next(iter(participant["metrics"]), None)
    metric = wanted or leading
    gains = {name: (participant.get(name) or {}) if metric == leading else {} for name in _GAINS}
    gains["net_gain"] = participant.get("net_gains", {}).get(metric) or gains["net_gain"]
    values, account = participant["metrics"].get(metric, {}), participant["epsilon"]
    infinite = bool(account["non_private"])
    return {
        "industry": participant["industry"],
        "state": participant["state"],
        "metric": metric,
        **{model: values.get(model) for model in _MODELS},
        **{name: gain.get("value") for name, gain in gains.items()},
        **{f"{name}_{end}": gain.get(end) for name, gain in gains.items() for end in _ENDS},
        "verdict": verdict(gains["net_gain"] or None),
        "keeps": participant.get("keeps"),
        "units": sum(participant["units"].values()) if participant.get("units") else None,
        "quarantined": own["quarantine"]["rows_read"] - own["quarantine"]["rows_kept"] if "quarantine" in own else None,
        "epsilon_run": math.inf if infinite else account["run"],
        "budget_run": math.inf if infinite else account["budget"],
        "delta_run": account["delta"],
        "epsilon_lifetime": math.inf if infinite else account["lifetime"],
        "budget_lifetime": own.get("epsilon", {}).get("lifetime_budget"),
        "delta_lifetime": account["lifetime_delta"],
        "unit": account["unit"],
        "relation": own.get("epsilon", {}).get("relation", RELATION),
        "synthetic": participant.get("synthetic"),
    }


def ledger(home: Home) -> pd.DataFrame:
    """See `consortia.Run.ledger`."""
    with _opened(home) as book:
        lines = chain(book)
        plans = {run: book.plan(run) for run in {line["run"] for line in lines if "run" in line}}
    for line in lines:
        plan = plans.get(line.get("run"))
        line["unit"] = plan.unit if plan else None
        if line.get("epsilon_alone", 0.0) is None:
            line["epsilon_alone"] = math.inf
    table = pd.DataFrame(lines, columns=list(_LEDGER))
    table["time"] = pd.to_datetime(table["time"])
    table["round"] = table["round"].astype("Int64")
    return _numbers(table, set(_LEDGER) - {"epsilon_alone", "delta"})


def spent(homes: Sequence[Home]) -> pd.DataFrame:
    """See `consortia.Run.spent`."""
    lines = []
    for home in homes:
        with _opened(home) as book:
            accounts = summary(book, policy_or_input_error(home.policy, simulation=True), home.participant)["accounts"]
        for account in accounts:
            infinite = {"epsilon": math.inf} if account["non_private"] else {}
            lines.append({"relation": RELATION, **account, **infinite, "participant": home.participant})
    return _numbers(pd.DataFrame(lines, columns=list(_SPENT)), set(_SPENT) - {"epsilon", "delta", "budget", "left"})


def history(facts: Facts) -> pd.DataFrame:
    """See `consortia.Run.history`."""
    if facts.vertical:
        return pd.DataFrame(facts.result["history"])
    lines = []
    for participant in facts.run.participants.values():
        metric, points = facts.progress.get(participant.name, (None, []))
        values, epsilons = dict(points), dict(curve(facts.run, participant, most=len(participant.contributed) or 1))
        so_far: float | None = math.inf if participant.non_private else 0.0
        for number, _, _ in facts.run.rounds:
            so_far = epsilons.get(number, so_far)
            lines.append(
                {
                    "round": number,
                    "participant": participant.name,
                    "metric": metric,
                    "value": values.get(number),
                    "epsilon": so_far,
                    "budget": math.inf if participant.non_private else participant.budget,
                    "delta": participant.delta,
                    "unit": participant.unit,
                    "relation": RELATION,
                }
            )
    table = pd.DataFrame(lines, columns=list(_HISTORY)).sort_values("round", kind="stable", ignore_index=True)
    return _numbers(table, {"round", "participant", "metric", "unit", "relation"})


def _numbers(table: pd.DataFrame, words: set[str]) -> pd.DataFrame:
    """Return the table with NaN, not None, in every column that is not named as words."""
    numbers = [name for name in table.columns if name not in words]
    return table.astype(dict.fromkeys(numbers, float))


def _opened(home: Home) -> Ledger:
    try:
        return Ledger.open(home.ledger, home.participant)
    except (PrivacyError, RefusedError) as error:
        raise ArgumentError(f"participant {home.participant}: wanted its ledger: {error}") from None
