"""Renders a report as one HTML file (no script, no network) and as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from consortia.common.disk import write_text
from consortia.common.words import coded
from consortia.reports.contributions import contribution_sections
from consortia.reports.explain import sections_of_run
from consortia.reports.fairness import fairness_sections
from consortia.reports.page.board import Board, board
from consortia.reports.page.content import WORDS, Section, sections
from consortia.reports.page.facts import Facts
from consortia.reports.page.statistics import statistics_sections

__all__ = ["as_html", "as_markdown", "page", "write"]

#: A number with its sign, exponent, unit, or interval: no line may break in it.
_ONE_VALUE = re.compile(r"[-+]?\d[\d.,]*(e[-+]?\d+)?( (B|s|%)| \[[-+\d.]+, [-+\d.]+\])?")


def as_html(facts: Facts) -> str:
    """Return the page; names and texts of records are escaped."""
    first = board(facts)
    return page(first.title, _all(facts), first)


def page(title: str, shown: Sequence[Section], first: Board | None = None) -> str:
    """Return sections as a page, behind a first one where it is given; names and texts are escaped."""
    style = resources.files("consortia.dashboard").joinpath("assets/style.css").read_text(encoding="utf-8")
    template = _environment(escape=True).get_template("report.html")
    return template.render(title=title, board=first, sections=shown, style=Markup(style))  # noqa: S704 - our own file


def as_markdown(facts: Facts) -> str:
    """Return the same as Markdown, with tables in place of plots."""
    first = board(facts)
    template = _environment(escape=False).get_template("report.md")
    return template.render(title=first.title, board=first, sections=_all(facts))


def write(facts: Facts, folder: Path) -> list[Path]:
    """Write `report.html` and `report.md`, or `report-NAME` of a participant, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = replace(facts, beside=folder.resolve() == facts.run.folder.resolve())
    name = f"report-{facts.whose}" if facts.whose else "report"
    files = {folder / f"{name}.html": as_html(facts), folder / f"{name}.md": as_markdown(facts)}
    for file, text in files.items():
        write_text(file, text)
    return list(files)


def _all(facts: Facts) -> list[Section]:
    """Return the annex: what was found, then how, then words, metadata and hashes."""
    made = sections(facts)
    last = next(place for place, section in enumerate(made) if section.title == WORDS)
    shared = [] if facts.whose else contribution_sections(facts.run.folder)
    return [
        *statistics_sections(facts),
        *made[:last],
        *sections_of_run(facts.run.folder),
        *shared,
        *fairness_sections(facts.result),
        *made[last:],
    ]


def _cell(text: object) -> str:
    """Return text as a cell of Markdown; of a link its words."""
    plain = text.striptags() if isinstance(text, Markup) else str(text)
    return html.escape(plain, quote=False).replace("|", "\\|").replace("\n", " ")


def _environment(*, escape: bool) -> Environment:
    loader = PackageLoader("consortia.reports.page", "pages")
    made = Environment(loader=loader, autoescape=escape, undefined=StrictUndefined, trim_blocks=False)  # noqa: S701
    made.filters["cell"] = _cell
    made.filters["coded"] = coded
    made.tests["one_value"] = lambda cell: _ONE_VALUE.fullmatch(str(cell)) is not None
    return made
