"""`consortia audit`: tests whether the training code keeps what the ledger claims."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from consortia.cli.options import AsJson, Jobs, ScenarioName
from consortia.common.console import begin, err, out, tell
from consortia.common.errors import InputError
from consortia.terms.scenario import find_scenario, load_scenario


def audit(
    scenario: ScenarioName,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INSTRUMENT",
            help="mechanism, asking, phases, sizes, canary, coordinator, sums, vectorised, vertical, neighbours, "
            "statistics, metrics, sampler, noise or recount.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Smaller probes: less power, the same chance of a false alarm.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop after the first instrument, or neighbour game, that is violated.")
    ] = False,
    jobs: Jobs = 1,
    as_json: AsJson = False,
) -> None:
    """Test whether the training code keeps what the ledger claims. Exit 0: it does; 1: a violation was found."""
    begin(f"auditing {find_scenario(scenario).stem}: libraries and instruments first", as_json=as_json)
    loaded = load_scenario(scenario)
    from consortia.audit.result import ALPHA, Findings
    from consortia.audit.run import INSTRUMENTS, run

    if unknown := sorted(set(only or ()) - set(INSTRUMENTS)):
        raise InputError(f"--only {', '.join(unknown)}: wanted some of {', '.join(INSTRUMENTS)}")
    with err.status("") as status:

        def progress(instrument: str, what: str) -> None:
            status.update(f"{instrument}: {what}")

        def finished(findings: Findings) -> None:
            if findings.skipped:
                err.print(f"{findings.instrument}: skipped, {findings.skipped}", highlight=False)
                return
            verdict = f"{len(findings.violations)} violations" if findings.violations else "clean"
            err.print(
                f"{findings.instrument}: {len(findings.checks)} checks, {verdict} ({findings.seconds:.1f} s)",
                highlight=False,
            )

        found = run(
            loaded, only=only or (), quick=quick, fail_fast=fail_fast, jobs=jobs, progress=progress, finished=finished
        )
    broken = any(findings.violations for findings in found)
    if as_json:
        data: dict[str, Any] = {
            "schema": 1,
            "scenario": loaded.name,
            "contract_sha256": loaded.contract.sha256(),
            "clean": not broken,
            "instruments": [findings.to_json() for findings in found],
        }
        typer.echo(json.dumps(data, indent=1))
    else:
        _print(found)
        out.print(
            f"{'violations' if broken else 'clean'}; chance of a false alarm at most {ALPHA:g} for each instrument, on "
            "synthetic rows and ledgers of the audit's own",
            highlight=False,
        )
    if broken:
        raise typer.Exit(1)


def _print(found: list[Any]) -> None:
    table = Table("instrument", "checks", "smallest chance", "violations")
    for findings in found:
        if findings.skipped:
            continue
        smallest = min((check.p for check in findings.checks), default=1.0)
        table.add_row(findings.instrument, str(len(findings.checks)), f"{smallest:.2g}", str(len(findings.violations)))
    out.print(table)
    for findings in found:
        if findings.skipped:
            tell(f"{findings.instrument}: skipped, {findings.skipped}")
        for check in findings.violations:
            tell(f"{findings.instrument}: {check.subject}: {check.law}: wanted {check.wanted}, got {check.got}")
        for note in findings.notes:
            tell(f"{findings.instrument}: {note}")
