"""Targets of each kind, for schemas that tests make up."""

from __future__ import annotations

from typing import Final

from clients import metric_registry
from clients.schema import Target
from consortia.metrics.from_histograms import HISTOGRAM_METRICS

#: One target of each kind.
TARGETS: Final = {
    "binary": Target(name="y", kind="binary", classes=("no", "yes")),
    "multiclass": Target(name="y", kind="multiclass", classes=("a", "b", "c")),
    "multilabel": Target(name="y", kind="multilabel", classes=("a", "b", "c")),
    "regression": Target(name="y", kind="regression", low=-10, high=30),
}

#: Those that learners of noisy sums take.
SUMMED: Final = tuple(kind for kind in TARGETS if kind != "multilabel")


def lettered(kind: str) -> Target:
    """Return a target whose classes or labels are letters: two of a binary one, three of others that have some."""
    if kind == "binary":
        return Target(name="y", kind="binary", classes=("a", "b"))
    return TARGETS.get(kind, TARGETS["multiclass"])


#: What each kind is, and whether learners of noisy sums take it.
SAID: Final = {
    "binary": ("one of two classes; the second is the positive one", True),
    "multiclass": ("one of three classes or more", True),
    "multilabel": ("any number of 2 to 32 labels", False),
    "regression": ("a number, with public `low` and `high` where noise needs a bound", True),
    "anomaly": ("nothing: rows of the first class train, others measure", False),
}


def table() -> str:
    """Return the table of docs/how_to/industry.md, in Markdown."""
    heads = ("kind", "a row's target", "metrics", "leaves with DP", "`sums`, `additive`")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for kind, (what, summed) in SAID.items():
        fits = (name for name in metric_registry.NAMES if kind in metric_registry.get(name).kinds)
        metrics, released = (", ".join(f"`{one}`" for one in names) for names in (fits, HISTOGRAM_METRICS[kind]))
        lines.append(f"| `{kind}` | {what} | {metrics} | {released} | {'yes' if summed else 'refused'} |")
    return "\n".join(lines)
