"""`consortia home log`: what went wrong at a participant, with the causes that never leave it; and who did what."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict
from typing import Annotated

import typer

from consortia.cli.acts import KnownHead, show
from consortia.cli.options import AsJson, HomeFolder, ParticipantName, home_of
from consortia.common.console import out, tell
from consortia.common.errors import InputError
from consortia.common.own_log import troubles


def log(
    participant: ParticipantName,
    incident: Annotated[str, typer.Option(help="Only the incident of this id, as the coordinator got it.")] = "",
    last: Annotated[int, typer.Option(min=1, help="How many of the last ones.")] = 20,
    home: HomeFolder = None,
    acts: Annotated[
        bool, typer.Option("--acts", help="Show who changed what instead, and check that no line was changed.")
    ] = False,
    head: KnownHead = "",
    as_json: AsJson = False,
) -> None:
    """Show why a participant refused or failed: the coordinator got a code or an incident id, the cause is here."""
    place = home_of(participant, home)
    if not place.folder.is_dir():
        raise InputError(f"{place.folder}: wanted the home of {participant}, got nothing there; check --home")
    if acts:
        show([place.kept], head, last, as_json=as_json)
        return
    if head:
        raise InputError("--head: wanted --acts with it, got it without")
    # Its first line makes the file.
    found = [trouble for trouble in troubles(place.log) if incident in trouble.text] if place.log.is_file() else []
    if incident and not found:
        raise InputError(f"{place.log}: wanted incident {incident}, got none of that id; it is another participant's")
    if as_json:
        typer.echo(json.dumps([asdict(trouble) for trouble in found[-last:]], indent=1))
        return
    for trouble in found[-last:]:
        when = datetime.datetime.fromtimestamp(trouble.time).strftime("%Y-%m-%d %H:%M:%S")
        run = f"{trouble.run or '–'}, round {trouble.round or '–'}"
        tell(f"{when}  {run}  {trouble.text}")
    if not found:
        out.print("no refusal and no incident", highlight=False)
