"""The sections of a report about statistics before training: tables, and a picture of every column."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from markupsafe import Markup

from consortia.reports.charts import Line, Spot, dot_chart, line_chart
from consortia.reports.many_participants import first
from consortia.reports.page.content import Chart, Section, Table
from consortia.reports.page.facts import Facts
from consortia.reports.statistics import verdict_words, words

__all__ = ["statistics_sections"]

_MOST_PICTURES: Final = 60
_INTERVALS: Final = "Brackets and bands are 95 % intervals of the noise, not of who was sampled."
_VERDICTS: Final = (
    "Sites differ where the interval of any share or mean is off 0; the intervals are corrected so that of equal sites "
    "about one run in twenty says so of any column."
)
_MARKUP: Final = re.compile(r"\[/?bold\]|\[/\]")


def statistics_sections(facts: Facts) -> list[Section]:
    """Return one section for each industry whose participants released statistics."""
    return [_industry(facts, name, found) for name, found in facts.result.get("statistics", {}).items()]


def _industry(facts: Facts, industry: str, found: Mapping[str, Any]) -> Section:
    section, together = Section(f"Statistics before training: {industry}"), found["together"]
    section.says = [f"{words(together['units'])} training units. {_INTERVALS}", _VERDICTS]
    if found["weighted"]:
        section.says.append("Members with a smaller budget count less: counts, shares and means are weighted.")
    if not found["differ"]:
        section.says.append(
            "A secure sum: nobody saw one site's numbers, and each compared itself with the rest at home."
        )
    section.tables = [
        Table("Columns", ("column", "missing", "mean", "spread", "sites differ"), _columns(found)),
        Table("Cells", ("column", "cell", "count", "share", f"target {together['target']['name']}"), _cells(together)),
    ]
    homes = [
        (name, column, _plain(verdict_words(verdict)))
        for name, participant in first(list(facts.result["participants"].items()))
        for column, verdict in participant.get("differ", {}).items()
        if participant["industry"] == industry and verdict["differ"]
    ]
    if homes:
        caption = "Own rows against the rest, as each participant sees it at home (here because the reader owns all)"
        section.tables.append(Table(caption, ("participant", "column", "verdict"), homes))
    drawn = list(together["columns"])[:_MOST_PICTURES]
    section.charts = [chart for name in drawn if (chart := _picture(name, found)) is not None]
    return section


def _plain(text: str) -> str:
    return _MARKUP.sub("", text)


def _columns(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    together, differ = found["together"], found["differ"]
    rows = [
        (
            name,
            words(column["missing"]),
            words(column.get("mean")),
            words(column.get("spread")),
            _plain(verdict_words(differ.get(name))),
        )
        for name, column in together["columns"].items()
    ]
    target = together["target"]
    shares = "; ".join(f"{label} {words(one)}" for label, one in target.get("shares", {}).items())
    mean = shares or words(target.get("mean"))
    said = _plain(verdict_words(differ.get(target["name"])))
    return [*rows, (f"target {target['name']}", "–", mean, words(target.get("spread")), said)]


def _cells(together: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            cell["label"],
            words(cell["count"]),
            words(cell["share"]),
            "; ".join(f"{label} {words(one)}" for label, one in cell.get("target", {}).items()) or "–",
        )
        for name, column in together["columns"].items()
        for cell in column["cells"]
    ]


def _picture(name: str, found: Mapping[str, Any]) -> Chart | None:
    column = found["together"]["columns"][name]
    if column["kind"] != "number":
        dots = [(c["label"], *_values(c["share"])) for c in column["cells"] if c["share"]["value"] is not None]
        drawing, caption = dot_chart(f"Shares of {name}", "share", dots), f"{name}: shares of all participants together"
    else:
        lines = [Line("together", _spots(column, bars=True))]
        sites = first(list(found["sites"].items()))
        lines += [Line(site, _spots(one["columns"][name], bars=False)) for site, one in sites]
        unit = f"{name}, {column['measure']}" if column["measure"] else name
        drawing = line_chart(f"Histogram of {name}", unit, "share", lines, zero=True)
        caption = f"{name}: share of each bin; the band is the interval of all participants together"
    return Chart(caption, drawing) if drawing != Markup("") else None


def _values(share: Mapping[str, float]) -> tuple[float, float, float]:
    return share["value"], share["low"], share["high"]


def _spots(column: Mapping[str, Any], *, bars: bool) -> Sequence[Spot]:
    cells = [cell for cell in column["cells"] if cell["label"] != "missing"]
    low, high = column["bounds"]
    width = (high - low) / len(cells)
    return [
        (low + (place + 0.5) * width, *_values(cell["share"]))
        if bars
        else (low + (place + 0.5) * width, cell["share"]["value"], None, None)
        for place, cell in enumerate(cells)
        if cell["share"]["value"] is not None
    ]
