"""`consortia fairness`: how a released model treats groups."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from consortia.cli.options import FinishedRun
from consortia.common.console import begin, out
from consortia.common.run_folders import check_finished


def fairness(
    run: FinishedRun,
    industry: Annotated[list[str] | None, typer.Option(help="Only this industry (again for more).")] = None,
    participant: Annotated[
        list[str] | None, typer.Option(help="Only this participant's rows (again for more).")
    ] = None,
    threshold: Annotated[float, typer.Option(help="A row is called positive from this score on.")] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how the released model treats groups, from noisy histograms: AUC, positive rates, calibration."""
    check_finished(run, "result.json", "scenario.json")
    begin(f"comparing groups in {run}", as_json=as_json)
    from consortia.models.fairness import fairness_of_run
    from consortia.reports.fairness import print_fairness

    found = fairness_of_run(run, industry or (), participant or (), threshold)
    if as_json:
        typer.echo(json.dumps([one.as_json() for one in found], indent=1))
    else:
        print_fairness(out, found)
