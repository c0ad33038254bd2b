"""`consortia receipt`: shows at the participant what joining paid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from consortia.common.console import out
from consortia.common.environment import default_root
from consortia.common.errors import InputError
from consortia.common.strict import read_record
from consortia.reports.receipt_table import print_receipts


def receipt(
    homes: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of participants whose receipts are yours to read, or names below $CONSORTIA_HOME."
        ),
    ],
    run: Annotated[str, typer.Option(help="Run id; the latest of each home by default.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the receipts as JSON.")] = False,
) -> None:
    """Show whether joining paid: alone, control, federated and joined side by side, with the net gain."""
    found = [_read(_folder(home), run) for home in homes]
    if as_json:
        typer.echo(json.dumps(found))
    else:
        print_receipts(out, found)


def _folder(home: Path) -> Path:
    return home if home.is_dir() else default_root() / home


def _read(home: Path, run: str) -> dict[str, Any]:
    files = list((home / "runs").glob(f"{run or '*'}/receipt.json"))
    if not files:
        raise InputError(
            f"{home}: wanted the folder of a participant with a receipt of {run or 'a run'}, got none; "
            "a run that ended writes runs/RUN/receipt.json there"
        )
    return read_record(max(files, key=lambda file: file.stat().st_mtime))
