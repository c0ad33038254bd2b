"""`consortia data map`: proposes the mapping of a file onto an industry's schema, and shows it at home."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from consortia.cli.new_from_rows import read_rows
from consortia.common.console import out, tell
from consortia.common.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from clients.industry import IndustryClient
    from clients.proposing import Line


def map_rows(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet file.")],
    client: Annotated[str, typer.Option(help="The industry whose schema it should become.")],
    dataset: Annotated[str, typer.Option(help="The policy's name for the data set; the industry's without it.")] = "",
) -> None:
    """Propose how a file's columns become the schema's, and show it. It reads at home and sends nothing."""
    found = client_named(client)
    if not file.is_file():
        raise InputError(f"{file}: wanted a CSV or Parquet file, got nothing there; check the path")
    from clients.proposing import propose_mapping, to_toml

    frame, source = read_rows(file)
    lines = propose_mapping(frame, found.schema)
    print_lines(lines, frame)
    name = dataset or client.replace("_", "-")
    out.print(f"\nFor the policy, below [dataset.{name}]:\n", markup=False, highlight=False)
    tell(f'source = "{source}"\n\n{to_toml(lines, name)}')
    tell(fit(frame, found, lines))


def client_named(name: str) -> IndustryClient:
    """Return an industry; InputError when there is none or its file is wrong."""
    from clients import registry
    from clients.errors import ClientError

    try:
        return registry.get(name)
    except ClientError as error:
        raise InputError(str(error)) from None


def print_lines(lines: list[Line], frame: pd.DataFrame) -> None:
    """Show where each column of the schema comes from, and which columns of the file nothing takes."""
    from rich.table import Table
    from rich.text import Text

    from clients.proposing import left_over

    table = Table(title="The schema's columns and the file's")
    for heading in ("schema", "file", "rule", "look at"):
        table.add_column(heading, overflow="fold")
    for line in lines:
        rule = ", ".join(f"{key} {value}" for key, value in line.rule.items() if key != "column")
        rule = rule or ("as it is" if line.source else "–")
        table.add_row(*(Text(each) for each in (line.name, line.source or "–", rule, line.why)))
    out.print(table)
    if rest := left_over(lines, frame):
        tell(f"not taken: {', '.join(rest)}")


def fit(frame: pd.DataFrame, client: IndustryClient, lines: list[Line]) -> str:
    """Return how many rows fit the schema under the proposed mapping, or what stops it."""
    from clients.errors import ClientError
    from clients.mapping import apply
    from clients.proposing import FILL_IN, rules_of

    if open_lines := [line.name for line in lines if FILL_IN in str(line.rule)]:
        return f"Say what is meant, where it says {FILL_IN}: {', '.join(open_lines)}."
    try:
        mapped = apply(rules_of(lines), frame, client.schema, "mapping")
        _, report = client.schema.check(mapped, where="the file")
    except ClientError as error:
        return str(error)
    return f"{report.rows_kept} of {report.rows_read} rows fit the schema {client.schema.name!r}. {report}."
