"""`consortia data check`: a readiness report of a participant's own rows, at home."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from consortia.cli.new_from_rows import source_of
from consortia.cli.options import home_of
from consortia.common.console import begin, out, tell
from consortia.common.errors import InputError


def check(
    participant: Annotated[str, typer.Argument(help="Name of a participant with a home; or leave it out.")] = "",
    rows: Annotated[str, typer.Option(help="A file, or a source such as parquet:FILE, without a home.")] = "",
    client: Annotated[str, typer.Option(help="The industry of --rows.")] = "",
    dataset: Annotated[str, typer.Option(help="Which data set of the policy; the only one by default.")] = "",
    unit: Annotated[str, typer.Option(help="Whose a row is: a hashed identifier of the schema (with --rows).")] = "",
    quasi: Annotated[str, typer.Option(metavar="NAME,…", help="Columns by which persons can be found again.")] = "",
    home: Annotated[Path | None, typer.Option(help="Folder of the participants; $CONSORTIA_HOME by default.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report as a page to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check whether rows are ready: missing, bounds, classes, leaks, duplicates, identifiers. Nothing is sent."""
    from clients import registry
    from clients.errors import ClientError
    from consortia.terms.policy import policy_or_input_error

    names = tuple(name.strip() for name in quasi.split(",") if name.strip())
    if bool(participant) == bool(rows):
        raise InputError("data check: wanted the name of a participant, or --rows FILE --client NAME; give one of them")
    try:
        if rows:
            if not client:
                raise InputError("--client: wanted the industry of --rows, got none")
            begin(f"reading {rows}", as_json=as_json)
            industry = registry.get(client)
            from clients.sources import parse_source, read

            source = rows if ":" in rows.partition("/")[0] else source_of(Path(rows))
            frame = read(parse_source(source, key="--rows"), industry, industry.sites[0], key="--rows")
            terms: dict[str, Any] = {"unit": unit or "record", "where": "--rows"}
        else:
            place = home_of(participant, home)
            policy = policy_or_input_error(place.policy, simulation=True)
            if not dataset and len(policy.dataset) > 1:
                raise InputError(f"--dataset: wanted one of {', '.join(policy.dataset)}, got none")
            chosen = dataset or next(iter(policy.dataset))
            if chosen not in policy.dataset:
                raise InputError(f"--dataset: wanted one of {', '.join(policy.dataset)}, got another name")
            begin(f"reading the rows of {participant}", as_json=as_json)
            found = policy.dataset[chosen]
            industry = registry.get(found.industry)
            from consortia.participant.rows import read_rows

            frame = read_rows(found, industry, key=f"dataset.{chosen}")
            terms = {"unit": found.unit, "max_rows_per_unit": found.max_rows_per_unit, "where": f"dataset.{chosen}"}
            terms["key"] = place.split_key()
        from consortia.preflight.rows import as_data, look_at

        looked = look_at(industry, frame, quasi=names, **terms)
    except ClientError as error:
        raise InputError(str(error)) from None
    if report is not None:
        from consortia.preflight.rows_page import write_page

        write_page(looked, report)
    if as_json:
        typer.echo(json.dumps(as_data(looked), indent=1))
    else:
        from consortia.preflight.rows_page import print_rows

        print_rows(out, looked)
        if report is not None:
            tell(f"report: {report}")
    raise typer.Exit(0 if looked.ready else 1)
