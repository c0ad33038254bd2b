"""`consortia statistics`: noisy statistics of everybody's columns before anything is trained, within each ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consortia.cli.options import LedgerFolder, PublicData, RunsFolder, ScenarioName
from consortia.cli.outcome import exit_if_missed, watch_on
from consortia.common.console import begin, out, tell
from consortia.common.disk import write_text
from consortia.engines.options import Options, check_options
from consortia.terms.scenario import find_scenario, load_scenario

if TYPE_CHECKING:
    from consortia.terms.scenario import Scenario


def statistics(
    scenario: ScenarioName,
    bins: Annotated[int | None, typer.Option(help="Equal bins between a number's public bounds (8).")] = None,
    epsilon: Annotated[
        list[str] | None,
        typer.Option(metavar="X|NAME=X", help="Proposed to all or one (0.5); budget.statistics of a policy caps it."),
    ] = None,
    data: PublicData = None,
    seed: Annotated[int | None, typer.Option(help="Seed of synthetic rows and splits.")] = None,
    engine: Annotated[str, typer.Option(help="embedded (in this process) or flower (real processes).")] = "embedded",
    ledger: LedgerFolder = None,
    out_folder: RunsFolder = Path("runs"),
    write: Annotated[
        Path | None,
        typer.Option(help="Write the scenario of the statistics to this file and stop: check it, allow it, deploy it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the statistics as JSON.")] = False,
) -> None:
    """Release noisy statistics of every column under each participant's own budget, and say where sites differ."""
    from consortia.terms.statistics_scenario import statistics_scenario, statistics_toml

    name = find_scenario(scenario).stem
    begin(f"starting the statistics of {name}: libraries, policies and privacy plans first", as_json=as_json)
    loaded = load_scenario(scenario)
    if write is not None:
        write_text(write, statistics_toml(loaded, bins=bins))
        out.print(f"{write}: contract sha256:{load_scenario(str(write)).contract.sha256()}", highlight=False)
        return
    options = Options(
        scenario=scenario,
        data=data,
        seed=seed,
        epsilon=tuple(epsilon or ()),
        engine=engine,
        ledger=ledger,
        out=out_folder,
    )
    check_options(options)
    from consortia.engines.runner import execute, prepare
    from consortia.reports.page.facts import gather
    from consortia.reports.page.render import write as write_report
    from consortia.reports.statistics import print_statistics

    def change(written: Scenario) -> Scenario:
        return statistics_scenario(written, bins=bins)

    job = prepare(options, change=change)

    outcome = execute(job, options, watch_on(engine, as_json=as_json))
    page, _ = write_report(gather(job.folder), job.folder)
    if as_json:
        typer.echo(json.dumps(outcome.result.get("statistics", {}), indent=1))
    else:
        print_statistics(out, outcome.result)
        tell(f"picture: {page}")
        tell(f"record: {job.folder / 'result.json'}")
    exit_if_missed(outcome)
