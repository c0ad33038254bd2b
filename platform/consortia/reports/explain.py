"""Shows what a released model says: tables on the terminal, bars and curves on a page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

from markupsafe import Markup

from consortia.common.errors import InputError
from consortia.models.explain.effects import Effect, Explanation
from consortia.models.explain.run import explain_run
from consortia.reports.charts import Bar, Level, Line, bar_chart, dot_chart, line_chart
from consortia.reports.page.content import Chart, Section, Table
from consortia.reports.receipt_table import folded_table
from consortia.terms.contract import Contract

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["explain_sections", "print_explanations", "sections_of_run", "shape_charts", "verdict"]

_CURVES: Final = 12


def verdict(effect: Effect) -> str:
    """Return what noise leaves of a bar, in words."""
    if effect.clear is None:
        return "noise unknown"
    return "clear" if effect.clear else "noise could have made it"


def print_explanations(console: Console, found: Sequence[Explanation]) -> None:
    """Print each industry's columns, the most important first; those that noise could have made are dimmed."""
    from rich.markup import escape

    for one in found:
        console.print(f"[bold]{escape(one.industry)}[/], learner {one.learner}")
        for output, effects in groupby(one.effects, key=lambda effect: effect.output):
            table = folded_table("column", f"moves {escape(output)} by", "95 % interval", "")
            for effect in effects:
                style = "dim" if effect.clear is False else None
                table.add_row(escape(effect.column), _size(effect), _interval(effect), verdict(effect), style=style)
            console.print(table)
        for sentence in one.says:
            console.print(sentence, markup=False, highlight=False)


def sections_of_run(folder: Path) -> list[Section]:
    """Return the sections of a finished run; none where no model was released to explain."""
    try:
        return explain_sections(explain_run(folder))
    except InputError:
        return []


def shape_charts(contract: Contract, folder: Path) -> list[tuple[str, Markup]]:
    """Return caption and plot of each shape of a finished run's additive models; none for other learners."""
    industries = [name for name in sorted(contract.industries) if contract.of(name).additive is not None]
    try:
        found = explain_run(folder, industries) if industries else []
    except InputError:
        return []
    effects = [(one.industry, effect) for one in found for effect in one.effects]
    return [(f"{name}: {_caption(one)}", drawing) for name, one in effects if (drawing := _curve(one))]


def explain_sections(found: Sequence[Explanation]) -> list[Section]:
    """Return one section for each industry: bars by output, a curve of each column, a table of both."""
    return [_industry(one) for one in found]


def _industry(one: Explanation) -> Section:
    section = Section(f"Why: what the model of {one.industry} goes by", list(one.says))
    for output, group in groupby(one.effects, key=lambda effect: effect.output):
        effects = list(group)
        bars = [Bar(e.column, e.importance, e.low, e.high, e.clear is not False) for e in effects]
        grey = "; grey: noise could have made it" if any(e.clear is not None for e in effects) else ""
        section.charts.append(
            Chart(f"How far each column moves {output}{grey}", bar_chart(f"Importance for {output}", output, bars))
        )
        whole = one.learner == "additive"  # its shapes are the model itself
        drawn = effects if whole else [effect for effect in effects if effect.clear is not False][:_CURVES]
        section.charts += [Chart(_caption(effect), drawing) for effect in drawn if (drawing := _curve(effect))]
        rows = [(e.column, _size(e), _interval(e), verdict(e), _ends(e)) for e in effects]
        heads = ("column", "moves it by", "95 % interval", "noise", "lowest and highest of the curve")
        section.tables.append(Table(f"Columns for {output}", heads, rows))
    return section


def _caption(effect: Effect) -> str:
    band = "; the band is 95 % of what noise leaves open" if effect.curve.lows else ""
    grey = "; noise could have made it" if effect.clear is False else ""
    return f"What {effect.column} adds to {effect.output}{band}{grey}"


def _size(effect: Effect) -> str:
    return f"{effect.importance:.3g}"


def _interval(effect: Effect) -> str:
    return "–" if effect.low is None or effect.high is None else f"{effect.low:.3g} to {effect.high:.3g}"


def _ends(effect: Effect) -> str:
    both = list(zip(effect.curve.values, effect.curve.names, strict=True))
    (low, least), (high, most) = min(both), max(both)
    return f"{low:+.3g} at {least}, {high:+.3g} at {most}"


def _curve(effect: Effect) -> Markup:
    curve = effect.curve
    lows, highs = curve.lows or (None,) * len(curve.values), curve.highs or (None,) * len(curve.values)
    spots = list(zip(curve.values, lows, highs, strict=True))
    title, added = f"Effect of {effect.column}", f"added to {effect.output}"
    points = [(x, *spot) for x, spot in zip(curve.places, spots, strict=True) if x is not None]
    if points:
        unit = f"{effect.column}, {effect.measure}" if effect.measure else effect.column
        rest = [Level(name, v) for name, x, v in zip(curve.names, curve.places, curve.values, strict=True) if x is None]
        return line_chart(title, unit, added, [Line("effect", points)], rest)
    return dot_chart(title, added, [(name, *spot) for name, spot in zip(curve.names, spots, strict=True)])
