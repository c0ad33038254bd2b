"""`consortia contributions`: who contributed to a run of noisy sums, or of steps whose updates are kept."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from consortia.cli.options import AsJson, FinishedRun
from consortia.common.console import begin, out
from consortia.common.run_folders import check_finished


def contributions(
    run: FinishedRun,
    industry: Annotated[list[str] | None, typer.Option(help="Only this industry (again for more).")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what each participant is worth to the others: Shapley values of sums or kept updates. It costs nothing."""
    check_finished(run, "scenario.json")
    begin(f"weighing what participants of {run} released", as_json=as_json)
    from consortia.models.contributions import contributions_of_run
    from consortia.reports.contributions import print_contributions

    found = contributions_of_run(run, industry or ())
    if as_json:
        typer.echo(json.dumps([one.as_json() for one in found], indent=1))
    else:
        print_contributions(out, found)
