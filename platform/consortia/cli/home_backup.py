"""`consortia home backup|restore`: one encrypted file of a participant's home."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from consortia.cli.options import HomeFolder, ParticipantName, home_of
from consortia.common.console import tell
from consortia.common.errors import InputError, RefusedError
from consortia.participant.backup import restore, write_backup

_PassphraseFile = Annotated[
    Path | None, typer.Option(help="File with the passphrase; else $CONSORTIA_PASSPHRASE, else it is asked for.")
]


def backup(
    participant: ParticipantName,
    to: Annotated[Path, typer.Option("--to", help="The file to write.")],
    home: HomeFolder = None,
    passphrase_file: _PassphraseFile = None,
) -> None:
    """Write a participant's home to one encrypted file, also while it runs."""
    place = home_of(participant, home)
    if not place.ledger.is_file():
        raise InputError(f"{place.ledger}: wanted a ledger, got nothing there; check the name and --home")
    made = write_backup(place, to, _passphrase(passphrase_file, confirm=True))
    tell(f"wrote {to}: {made.files} files of {participant}, {made.entries} links in its ledger. Without the passphrase")
    tell("nobody opens it. Keep it away from the home, and $CONSORTIA_WITNESS away from both")


def restore_home(
    participant: ParticipantName,
    source: Annotated[Path, typer.Option("--from", help="The file that `home backup` wrote.")],
    home: HomeFolder = None,
    passphrase_file: _PassphraseFile = None,
    nothing_left_since: Annotated[
        bool,
        typer.Option(
            "--nothing-left-since",
            help="You declare that no reply left after the backup; noted in the ledger. Only where no witness is left.",
        ),
    ] = False,
) -> None:
    """Put a backup back into a home without a ledger. A ledger that lacks a charge is refused."""
    place = home_of(participant, home)
    try:
        found = restore(
            place, source, _passphrase(passphrase_file, confirm=False), nothing_left_since=nothing_left_since
        )
    except RefusedError as error:
        raise InputError(f"{error.code}: {error}") from None
    tell(f"restored {place.folder} as of {found.made}: {found.files} files, {found.entries} links in its ledger")
    tell("a coordinator that holds a newer link still refuses it (LEDGER_BEHIND, LEDGER_FORKED)")


def _passphrase(file: Path | None, *, confirm: bool) -> str:
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--passphrase-file {file}: wanted text, got {type(error).__name__}") from None
    if found := os.environ.get("CONSORTIA_PASSPHRASE"):
        return found
    if not sys.stdin.isatty():
        raise InputError("passphrase: wanted --passphrase-file or $CONSORTIA_PASSPHRASE, got neither and no terminal")
    answer: str = typer.prompt("passphrase", hide_input=True, confirmation_prompt=confirm)
    return answer
