"""The section on the releases of a run that grows: public terms, and metrics that were released."""

from __future__ import annotations

from typing import Any

from consortia.common.words import epsilon_text, number
from consortia.reports.charts import Line, line_chart
from consortia.reports.page.facts import Facts
from consortia.reports.page.parts import Chart, Section, Table
from consortia.reports.receipt_table import label

__all__ = ["releases"]


def releases(facts: Facts) -> Section | None:
    """Return the releases so far, this one last; nothing for a run that builds on none."""
    before = facts.result.get("releases", [])
    if not before:
        return None
    mine = {
        one.name: {
            "units": one.units,
            "epsilon": None if one.non_private else one.epsilon,
            "released": _released(facts.result["participants"][one.name]),
        }
        for one in facts.run.scenario.roster
    }
    lines = [*before, {"run_id": facts.result["run_id"], "participants": mine}]
    steps = facts.run.scenario.contract.steps is not None
    how = "the model went on from that of the release before" if steps else "the model is made of the sums of all"
    section = Section("Releases")
    section.says.append(f"Each release is of new units alone; {how}. An old unit paid for its own release.")
    rows = []
    for place, line in enumerate(lines, start=1):
        terms = line["participants"].values()
        budgets = sorted(
            {"∞ (non-private)" if one["epsilon"] is None else epsilon_text(one["epsilon"]) for one in terms}
        )
        units = f"{sum(one['units'] for one in terms):,}"
        rows.append((str(place), line["run_id"], units, ", ".join(budgets), _means(line) or "–"))
    heads = ("release", "run", "declared units", "ε proposed", "released metrics, mean")
    section.tables.append(Table("Releases so far", heads, rows))
    kinds = sorted({kind for line in lines for one in line["participants"].values() for kind in one["released"]})
    for kind in kinds:
        points = [(place, value, None, None) for place, line in enumerate(lines, 1) if (value := _mean(line, kind))]
        if len(points) > 1:
            title = f"{label(kind)} by release"
            drawing = line_chart(title, "release", label(kind), [Line("mean of participants", points)])
            section.charts.append(Chart(f"Released {label(kind)} of the model after each release", drawing))
    return section


def _released(participant: dict[str, Any]) -> dict[str, float]:
    found = {kind: line.get("released_value") for kind, line in participant["metrics"].items() if line.get("release")}
    return {kind: value for kind, value in found.items() if value is not None}


def _mean(line: dict[str, Any], kind: str) -> float | None:
    values = [one["released"][kind] for one in line["participants"].values() if kind in one["released"]]
    return sum(values) / len(values) if values else None


def _means(line: dict[str, Any]) -> str:
    kinds = sorted({kind for one in line["participants"].values() for kind in one["released"]})
    return ", ".join(f"{label(kind)} {number(_mean(line, kind))}" for kind in kinds)
