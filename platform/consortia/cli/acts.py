"""Shows logs of administrative acts (`consortia.common.acts`), each checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from consortia.common.acts import FILE, verify
from consortia.common.console import tell
from consortia.common.errors import InputError

__all__ = ["KnownHead", "show"]

KnownHead = Annotated[
    str, typer.Option("--head", help="A head that was printed before: it must be in a chain, else lines were cut off.")
]


def show(folders: Sequence[Path], head: str, last: int, *, as_json: bool) -> None:
    """Print the last acts of some folders by their time, and the head of each chain.

    Raises
    ------
    BrokenActsError
        A line does not follow from those before it, or `head` is in no chain (exit status 1).
    """
    files = [folder / FILE for folder in folders if (folder / FILE).is_file()]
    if not files:
        raise InputError(f"{', '.join(str(each) for each in folders)}: wanted {FILE}, got none; its first act makes it")
    logs = {file: verify(file) for file in files}
    if head and not any(line.head.startswith(head) for lines in logs.values() for line in lines):
        verify(files[0], head)
    told = sorted(((line.time, file.parent.name, line) for file, lines in logs.items() for line in lines),
                  key=lambda each: each[0])[-last:]  # fmt: skip
    if as_json:
        typer.echo(json.dumps([{"folder": folder, **asdict(line)} for _, folder, line in told], indent=1))
        return
    for time, folder, line in told:
        tell(f"{time[:19].replace('T', ' ')} UTC  {folder}  {line.who}: {line.act} {line.about} – {line.outcome}")
    for file, lines in logs.items():
        tell(f"{file}: {len(lines)} lines follow from one another; head {lines[-1].head[:16] if lines else '–'}")
