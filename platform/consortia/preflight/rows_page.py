"""The readiness report on the terminal and as a page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from consortia.common.disk import write_text
from consortia.preflight.rows import RowsReport
from consortia.reports.page.content import Section, Table
from consortia.reports.page.render import page

__all__ = ["print_rows", "write_page"]

_ORDER = {"stop": 0, "look": 1, "ok": 2}
_SAYS = "Made at home; nothing of it was sent, and no value of a row is in it."


def print_rows(console: Console, report: RowsReport) -> None:
    """Print the report, what must be mended first."""
    styles = {"stop": "red", "look": "yellow", "ok": "dim"}
    for look in sorted(report.looks, key=lambda one: _ORDER[one.level]):
        said = f"{look.topic}: {look.about}: {look.found}" + (f" -> {look.todo}" if look.todo else "")
        console.print(f"[{styles[look.level]}]{look.level:4}[/] {escape(said)}", highlight=False, soft_wrap=True)
    said = "ready" if report.ready else "not ready: mend what says stop"
    console.print(f"{report.kept} of {report.rows} rows fit {report.client}: {said}. {_SAYS}", highlight=False)


def write_page(report: RowsReport, file: Path) -> None:
    """Write the report as one HTML file without scripts."""
    looks = Section("Is it ready")
    looks.says = [_SAYS, "Ready." if report.ready else "Not ready: mend what says stop."]
    looks.facts = [("industry", report.client), ("rows read", str(report.rows)), ("rows that fit", str(report.kept))]
    rows = [
        (look.level, look.topic, look.about, look.found, look.todo or "–")
        for look in sorted(report.looks, key=lambda one: _ORDER[one.level])
    ]
    looks.tables = [Table("Findings", ("level", "what", "column", "found", "what to do"), rows)]
    columns = Section("Columns")
    told = [
        (
            name,
            one["type"],
            f"{one['missing']:.1%}",
            f"{one['clipped']:.1%}" if "clipped" in one else "–",
            one["treated"],
        )
        for name, one in report.columns.items()
    ]
    heads = ("column", "type", "missing", "outside the bounds", "what the schema does with it")
    columns.tables = [Table("Columns of the file", heads, told)]
    write_text(file, page("Are these rows ready", [looks, columns]))
