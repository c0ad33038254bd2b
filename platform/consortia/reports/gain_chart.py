"""The first chart of report and dashboard: what joining brought each participant, with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from markupsafe import Markup

from consortia.common.words import signed
from consortia.reports.charts import Level, dot_chart
from consortia.reports.decision import compares, gain_of, verdict_of
from consortia.reports.many_participants import first
from consortia.reports.receipt_table import label

__all__ = ["gain_chart"]

_CAPTION: Final = (
    "{}, {}, on untouched test rows; bars are 95 % intervals. Bar wholly right of the broken line: clearly; "
    "dot alone right of it: perhaps"
)


def gain_chart(participants: Mapping[str, Mapping[str, Any]], *, by_value: bool = True) -> tuple[str, Markup]:
    """Return caption and plot of the gain of the model that is really used; both empty where nobody's is at hand.

    Parameters
    ----------
    participants : mapping
        Receipts, or lines of a record, by participant.
    by_value : bool
        The largest gain first; otherwise in the order that is given, as one participant's runs are.
    """
    known = [(name, one, gain) for name, one in participants.items() if one.get("metrics") and (gain := gain_of(one))]
    shown = sorted(first(known), key=lambda each: -each[2]["value"]) if by_value else first(known)
    if not shown:
        return "", Markup("")
    net = any(compares(one) for _, one, _ in shown)
    metrics = ", ".join(sorted({label(one["headline"]) for _, one, _ in shown if one.get("headline")}))
    named = f"{'net gain' if net else 'gain'} in {metrics}" if metrics else "gain"
    drawing = dot_chart(
        "Gain of joining by participant",
        "gain in the metric",
        [(name, gain["value"], gain["low"], gain["high"]) for name, _, gain in shown],
        [Level("no gain", 0.0)],
        kinds=[verdict_of(one) for _, one, _ in shown],
        text=signed,
    )
    return _CAPTION.format(
        named[0].upper() + named[1:], "joined minus control" if net else "federated minus alone"
    ), drawing
