"""The metadata of a model card: the YAML front matter that the Hugging Face hub reads.

https://huggingface.co/docs/hub/model-cards. What the participants have not said (a licence) is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["front_matter"]

_TASKS: Final = {
    "binary": "tabular-classification",
    "multiclass": "tabular-classification",
    "regression": "tabular-regression",
}


def front_matter(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the metadata of an industry's model; results are released metrics alone."""
    industry = facts["industries"][name]
    task = _TASKS[industry["schema"]["target"]["kind"]]
    if industry["schema"]["shape"] is not None:
        task = "other"
    results = [
        {
            "task": {"type": task},
            "dataset": {"type": "private", "name": f"test rows of {participant}"},
            "metrics": [_metric(kind, line) for kind, line in found.items()],
        }
        for participant in industry["participants"]
        if (found := facts["participants"][participant]["metrics"])
    ]
    data: dict[str, Any] = {
        "library_name": "consortia",
        "tags": ["federated-learning", *_privacy_tags(facts, industry["participants"])],
    }
    if task != "other":
        data["pipeline_tag"] = task
    if results:
        data["model-index"] = [{"name": f"{facts['run']['run_id']}-{name}", "results": results}]
    return data


def _metric(kind: str, line: Mapping[str, Any]) -> dict[str, Any]:
    found = {"type": kind, "name": kind, "value": line["value"], "verified": False}
    return found if line["interval"] is None else {**found, "args": {"interval_95": list(line["interval"])}}


def _privacy_tags(facts: Mapping[str, Any], names: list[str]) -> list[str]:
    accounts = [facts["participants"][name]["epsilon"] for name in names]
    central = facts["central"]
    noisy = central["noise_multiplier"] > 0 if central else not any(one["non_private"] for one in accounts)
    kept = {"synthetic": ["synthetic"], "mixed": ["synthetic"]}.get(facts["run"]["rows"], [])
    return [*(["differential-privacy"] if noisy else ["non-private"]), *kept]
