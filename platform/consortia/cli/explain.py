"""`consortia explain`: which columns a run's released model goes by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from consortia.cli.options import AsJson, FinishedRun
from consortia.common.console import begin, out, tell
from consortia.common.run_folders import check_finished


def explain(
    run: FinishedRun,
    industry: Annotated[list[str] | None, typer.Option(help="Only this industry's model (again for more).")] = None,
    target: Annotated[
        Path | None, typer.Option("--out", help="Write a page with bars and curves, explain.html, into this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which columns a run's released model goes by, and how, with what noise leaves open. It costs nothing."""
    check_finished(run, "scenario.json")
    begin(f"explaining the model of {run}", as_json=as_json)
    from consortia.common.disk import write_text
    from consortia.models.explain.run import explain_run
    from consortia.reports.explain import explain_sections, print_explanations
    from consortia.reports.page.render import page

    found = explain_run(run, industry or ())
    if as_json:
        typer.echo(json.dumps([one.as_json() for one in found], indent=1))
    else:
        print_explanations(out, found)
    if target is not None:
        target.mkdir(parents=True, exist_ok=True)
        write_text(target / "explain.html", page(f"Why: run {run.resolve().name}", explain_sections(found)))
        tell(str(target / "explain.html"))
