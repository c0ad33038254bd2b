"""`consortia evidence`: writes what a board, a data protection officer or a regulator asks for after a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consortia.cli.options import FinishedRun
from consortia.common.console import begin, tell


def evidence(
    run: FinishedRun,
    target: Annotated[
        Path | None, typer.Option("--out", help="Write the pack into this folder instead of RUN/evidence.")
    ] = None,
) -> None:
    """Write a run's evidence pack: model card, data sheet, Croissant, DPIA annex, EU AI Act and HIPAA. It is free."""
    begin(f"writing the evidence pack of {run}")
    from consortia.reports.evidence import PACK
    from consortia.reports.evidence.facts import collect
    from consortia.reports.evidence.render import write

    for file in write(collect(run), target or run / PACK):
        tell(str(file))
