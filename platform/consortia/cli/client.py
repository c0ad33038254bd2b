"""`consortia client check|confirm|diff`: an industry that is a file (`clients/NAME.toml`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tomlkit
import typer

from consortia.common.console import out, tell
from consortia.common.disk import write_text
from consortia.common.errors import InputError

_Name = Annotated[str, typer.Argument(help="Name of the industry.")]


def check(name: _Name, rows: Annotated[int, typer.Option(help="Synthetic rows for each site.")] = 240) -> None:
    """Hold an industry to the conformance suite (`check_client`), on its own synthetic rows."""
    from clients import registry
    from clients.errors import ClientError

    try:
        client = registry.get(name)
    except ClientError as error:
        raise InputError(str(error)) from None
    from consortia.testing import ClientCheckError, check_client

    try:
        passed = check_client(client, rows=rows, tell=lambda line: out.print(line, highlight=False))
    except ClientCheckError as error:
        tell(str(error))
        raise typer.Exit(1) from None
    tell(f"{name}: {len(passed)} checks passed: {', '.join(passed)}")
    if client.unconfirmed:
        tell(f"to be confirmed: {'; '.join(client.unconfirmed)}")


def confirm(
    name: _Name,
    columns: Annotated[list[str] | None, typer.Argument(help="Columns; all without one.")] = None,
) -> None:
    """Confirm that bounds and categories read from rows are public knowledge. They are listed, and counted."""
    from clients import registry
    from clients.errors import ClientError

    try:
        file = registry.file_of(name)
        if file is None:
            raise InputError(f"client confirm: wanted an industry with a file clients/{name}.toml, got none")
        from clients.declared import load

        load(file)
    except ClientError as error:
        raise InputError(str(error)) from None
    document = tomlkit.parse(file.read_text(encoding="utf-8-sig"))
    target = document["target"]
    parts = {**document.get("columns", {}), **document.get("derived", {}), str(target["name"]): target}
    if strange := [each for each in columns or () if each not in parts]:
        raise InputError(f"client confirm: wanted columns of {file}, got {', '.join(strange)}; correct the names")
    confirmed = 0
    for column, part in parts.items():
        if "to_confirm" not in part or (columns and column not in columns):
            continue
        said = [f"{key} = {_short(part.get(key))}" for key in part["to_confirm"]]
        tell(f"confirmed {column}: {', '.join(said)}")
        del part["to_confirm"]
        confirmed += 1
    if confirmed:
        write_text(file, tomlkit.dumps(document))
    left = load(file).unconfirmed
    tell(
        f"{confirmed} confirmed, {len(left)} left in {file}. You say that these are public knowledge; they stand in "
        "everybody's file, and no budget pays for them."
    )


def diff(
    old: Annotated[str, typer.Argument(help="A file clients/NAME.toml, or the name of an industry.")],
    new: Annotated[str, typer.Argument(help="Another one.")],
) -> None:
    """Show what differs between two versions of an industry's file. Exit 1 when something does."""
    files = _file(old), _file(new)
    from clients.declared import read_file, shown

    before, after = (read_file(file) for file in files)
    first, second = shown(before), shown(after)
    lines = [f"- {key} = {_short(value)}" for key, value in first.items() if key not in second]
    lines += [f"+ {key} = {_short(value)}" for key, value in second.items() if key not in first]
    lines += [
        f"~ {key}: {_short(value)} -> {_short(second[key])}"
        for key, value in first.items()
        if key in second and second[key] != value
    ]
    if not lines and list(before.columns) != list(after.columns):
        lines = ["~ the order of the columns, which is that of the features"]
    for line in sorted(lines, key=lambda line: line[2:]):
        tell(line)
    if before.digest() == after.digest():
        out.print("The columns are alike: a contract takes either of them.", highlight=False)
    else:
        out.print("The columns differ: a contract that names the one refuses the other.", highlight=False)
    if lines:
        raise typer.Exit(1)


def _file(name: str) -> Path:
    from clients import registry

    file = Path(name) if name.endswith(".toml") else registry.file_of(name)
    if file is None or not file.is_file():
        raise InputError(f"client diff: wanted a file clients/NAME.toml or the name of one, got {name!r}")
    return file


def _short(value: object) -> str:
    text = str(value.unwrap() if hasattr(value, "unwrap") else value)
    return text if len(text) <= 80 else f"{text[:77]}…"
