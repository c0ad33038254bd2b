"""`consortia report`: writes one self-contained page about a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consortia.common.console import begin, tell
from consortia.common.run_folders import check_finished


def report(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    participant: Annotated[
        list[str] | None, typer.Option(help="Write this participant's own report, on its side (again for more).")
    ] = None,
    target: Annotated[Path | None, typer.Option("--out", help="Write into this folder instead of the run's.")] = None,
) -> None:
    """Write a report of a finished run (report.html, report.md): guarantees, gains and costs."""
    check_finished(run, "result.json", "scenario.json")
    begin(f"writing the report of {run}")
    from consortia.reports.page.facts import gather
    from consortia.reports.page.render import write

    for whose in participant or [""]:
        for file in write(gather(run, whose), target or run):
            tell(str(file))
