"""`consortia secure`: makes a participant's identity for secure sums."""

from __future__ import annotations

import typer

from consortia.cli.options import HomeFolder, ParticipantName, home_of
from consortia.common.console import friendly
from consortia.common.errors import InputError
from consortia.participant.identity import make_identity

app = typer.Typer(help="Manage the key that identifies a participant in secure sums.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `key` a command of its own."""


@app.command(epilog="Example: consortia secure key hospital-a >> pins.toml")
@friendly
def key(
    participant: ParticipantName,
    home: HomeFolder = None,
) -> None:
    """Make the identity unless there is one; print the line that peers put under [secure.peers] of their policy.

    Hand the line over on a channel that the coordinator does not control: who swaps it can pose as this participant.
    """
    place = home_of(participant, home)
    if not place.folder.is_dir():
        raise InputError(f"{place.folder}: wanted a home, got nothing there; `consortia budget init {participant}`")
    typer.echo(f'{participant} = "{make_identity(place)}"')
