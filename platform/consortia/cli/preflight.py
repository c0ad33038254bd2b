"""`consortia preflight`: checks a participant's own side before it joins."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated

import typer

from consortia.cli.options import ParticipantName, home_of
from consortia.common.console import err, out
from consortia.common.environment import WANTED_BUILD
from consortia.common.errors import InputError
from consortia.terms.scenario import load_scenario


def preflight(
    participant: ParticipantName,
    superlink: Annotated[str, typer.Option(help="HOST:PORT of the coordinator: checks the way to it.")] = "",
    root_certificates: Annotated[Path | None, typer.Option(help="The coordinator's ca.crt.")] = None,
    key: Annotated[Path | None, typer.Option(help="The private node key; it stays here.")] = None,
    scenario: Annotated[str, typer.Option(help="Scenario by name or path: checks the home against it.")] = "",
    home: Annotated[
        Path | None, typer.Option(help="Folder of the participants; $CONSORTIA_HOME or ~/.consortia.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check a participant before it joins: address, TLS, clock, key; policy, data, schema, units, budget, noise."""
    if not superlink and not scenario:
        raise InputError("preflight: wanted --superlink (the way there), --scenario (the home) or both, got neither")
    findings = []
    if superlink and (wanted := os.environ.get(WANTED_BUILD, "")):
        from consortia.preflight.build import check_build

        findings += check_build(wanted)
    if superlink:
        if root_certificates is None or key is None:
            raise InputError("--superlink: wanted --root-certificates and --key beside it; both lie in the kit's keys/")
        from consortia.preflight.link import check_link

        findings += check_link(superlink, root_certificates, key)
    if scenario:
        loaded = load_scenario(scenario)
        from consortia.preflight.home import check_home

        findings += check_home(home_of(participant, home), loaded)
    failed = [finding for finding in findings if finding.status == "failed"]
    if as_json:
        typer.echo(
            json.dumps(
                {"participant": participant, "ok": not failed, "findings": [dataclasses.asdict(f) for f in findings]}
            )
        )
    else:
        for finding in findings:
            console = err if finding.status == "failed" else out
            style = {"failed": "red", "skipped": "dim"}.get(finding.status)
            console.print(str(finding), style=style, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1 if failed else 0)
