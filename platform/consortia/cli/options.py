"""Arguments and options that several commands have: each is written once, so that its help reads alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from consortia.participant.home import Home

__all__ = [
    "AsJson",
    "FinishedRun",
    "HomeFolder",
    "Jobs",
    "LedgerFolder",
    "ParticipantName",
    "PkiKey",
    "PublicData",
    "Rounds",
    "RunsFolder",
    "ScenarioName",
    "home_of",
]

ScenarioName = Annotated[str, typer.Argument(help="Name of a committed scenario or path of a TOML file.")]
ParticipantName = Annotated[str, typer.Argument(help="Name of the participant.")]
FinishedRun = Annotated[Path, typer.Argument(help="The coordinator's folder of a finished run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Rounds = Annotated[int | None, typer.Option(help="Other number of rounds.")]
Jobs = Annotated[int, typer.Option(min=1, metavar="N", help="Do so many at the same time, each in a process.")]
HomeFolder = Annotated[
    Path | None, typer.Option("--home", help="Folder of the participants; $CONSORTIA_HOME or ~/.consortia.")
]
PublicData = Annotated[
    Path | None, typer.Option(help="Folder with each industry's public data set; synthetic rows without it.")
]
LedgerFolder = Annotated[Path | None, typer.Option(help="Charge a simulation to the ledgers in this folder.")]
RunsFolder = Annotated[Path, typer.Option("--out", help="Where runs are written.")]
PkiKey = Annotated[
    Path | None, typer.Option(help="The coordinator's private key; pki/superlink.key where there is one.")
]


def home_of(name: str, root: Path | None) -> Home:
    """Return a participant's home below `root`, the folder of `HomeFolder`."""
    from consortia.common.environment import default_root
    from consortia.participant.home import Home

    return Home(((root or default_root()) / name).resolve(), name)
