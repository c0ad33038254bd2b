"""The command line: `consortia check|run|report|explain|predict|export|models|dashboard|audit|budget|...`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

# One thread per participant: small matrices lose more than they gain by two.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from consortia.common.console import say
from consortia.common.environment import flower_stays_offline
from consortia.common.errors import InputError
from consortia.common.logs import tolerant_streams

if TYPE_CHECKING:
    import typer

flower_stays_offline()


def build_app(words: list[str] | None = None) -> typer.Typer:
    """Return the typer application.

    Parameters
    ----------
    words : list of str, optional
        The arguments of the command line. Only the command that they name is imported; the others are there with their
        help alone. Without them every command is imported.
    """
    from consortia.cli.commands import COMMANDS, HELP, assemble

    return assemble(COMMANDS, HELP, words)


def check_packages() -> None:
    """Refuse to run when a folder of the same name elsewhere stands in for one of the four packages.

    `privacy` and `clients` are words that other folders have too; whoever is first on the path wins.
    """
    import clients
    import consortia
    import privacy
    import strategies

    here = Path(str(consortia.__file__)).resolve().parent.parent
    roots = {here, here.parent if here.name == "platform" else here}
    for package in (clients, privacy, strategies):
        found = Path(str(package.__file__)).resolve().parent.parent
        if found not in roots:
            raise InputError(
                f"package {package.__name__!r}: wanted the one beside consortia in {here}, got one in {found}; "
                "start from another folder or with `python -P`"
            )


def main() -> None:
    """Entry point of the console script."""
    tolerant_streams()
    try:
        check_packages()
    except InputError as error:
        say(f"error: {error}")
        raise SystemExit(2) from None
    build_app(sys.argv[1:])(prog_name="consortia")
