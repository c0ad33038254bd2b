"""Reads what a run's record says for its coordinator's pages: numbers, and names of the scenario; no other text.

A deployed coordinator's record holds released values only. A simulation's operator holds all rows, so its record has
gains, too; a page says then that it is a simulation. Whatever in a record is neither a number nor one of our own words
is left out, so nothing that a participant wrote can come through. Groups are called what contract and schema call them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from clients import metric_registry, registry
from clients.errors import ClientError
from consortia.reports.live_runs import Run

__all__ = ["told"]

_CODE: Final = re.compile(r"[A-Z][A-Z_]{2,40}")
_MODELS: Final = ("local", "control", "federated", "joined")
_ACCOUNT: Final = ("run", "lifetime", "budget", "delta", "lifetime_delta", "runs_left")
_VERDICTS: Final = frozenset({"worth it", "little", "not worth it"})
_ROLES: Final = frozenset({"label owner", "partner"})


def told(run: Run) -> dict[str, Any] | None:
    """Return what `consortia.reports.decision.decide` reads; None before the end, or where the record is malformed."""
    file = run.folder / "result.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return _record(record, run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _record(record: Mapping[str, Any], run: Run) -> dict[str, Any]:
    lines = {
        participant.name: _line(record["participants"][participant.name], participant.industry, run)
        for participant in run.scenario.roster
    }
    found: dict[str, Any] = {
        "status": "completed" if record["status"] == "completed" else "failed",
        "refused": record.get("refused") is True,
        "observer": "simulation" if record["observer"] == "simulation" else "coordinator",
        "synthetic": record["synthetic"] is True,
        "charged": record["charged"] is True,
        "rounds": int(record["rounds"]),
        "participants": lines,
    }
    if "central" in record:
        found["central"] = {"epsilon": {"models_only": _number(record["central"]["epsilon"]["models_only"])}}
    if "statistics" in record:
        found["statistics"] = {}
    gone = [one["industry"] for one in record.get("left", {}).values()]
    found["left"] = {str(place): {"industry": one} for place, one in enumerate(gone) if one in _industries(run)}
    return found


def _industries(run: Run) -> set[str]:
    return {participant.industry for participant in run.scenario.roster}


def _line(line: Mapping[str, Any], industry: str, run: Run) -> dict[str, Any]:
    account = line["epsilon"]
    metrics = {
        name: {kind: _number(values[kind]) for kind in _MODELS if kind in values}
        for name, values in line["metrics"].items()
        if _known(name)
    }
    found: dict[str, Any] = {
        "industry": industry,
        "metrics": metrics,
        "epsilon": {
            **{key: _number(account.get(key)) for key in _ACCOUNT},
            "non_private": None if account["non_private"] is None else account["non_private"] is True,
        },
        "failures": [
            {"code": one["code"]} for one in line.get("failures", ()) if _CODE.fullmatch(str(one.get("code")))
        ],
        "gain": _gain(line.get("gain")),
        "net_gain": _gain(line.get("net_gain")),
        "headline": line["headline"] if line.get("headline") in metrics else None,
    }
    if line.get("units"):
        found["units"] = {"test": _number(line["units"].get("test"))}
    if line.get("role") in _ROLES:
        found["role"] = line["role"]
    if (line.get("forecast") or {}).get("verdict") in _VERDICTS:
        found["forecast"] = {"verdict": line["forecast"]["verdict"]}
    if line.get("groups") and (groups := _groups(line["groups"], industry, run)):
        found["groups"] = groups
    return found


def _groups(line: Mapping[str, Any], industry: str, run: Run) -> dict[str, Any] | None:
    """Return noisy counts by group; None where the contract asks for none, or this installation lacks the industry.

    Raises
    ------
    ValueError
        When the counts have another form than the contract gives them.
    """
    terms = run.scenario.contract.of(industry).evaluation
    grouping = terms.grouping(industry)
    if grouping is None:
        return None
    try:
        names = grouping.names(registry.get(industry).schema)
    except ClientError:
        return None
    counts = np.asarray(line["counts"], dtype=np.float64)
    if counts.shape != (len(names), 2, terms.bins) or not np.isfinite(counts).all():
        raise ValueError("counts by group")
    numbers = {key: _number(line[key]) for key in ("deviation", "rows_per_unit")}
    return {"column": grouping.column, "names": list(names), "counts": counts.tolist(), **numbers}


def _known(metric: str) -> bool:
    """Return whether this is a metric of this installation: the name of any other is a participant's text."""
    try:
        metric_registry.get(metric)
    except ClientError:
        return False
    return True


def _gain(gain: Mapping[str, Any] | None) -> dict[str, float] | None:
    return {key: float(gain[key]) for key in ("value", "low", "high")} if gain else None


def _number(value: Any) -> Any:
    """Return a number or None.

    Raises
    ------
    TypeError
        When it is anything else.
    """
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise TypeError("wanted a number")
