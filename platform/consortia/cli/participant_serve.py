"""`consortia participant check-kit|serve|units`: what a participant does with its kit, besides running containers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consortia.cli.options import ParticipantName
from consortia.common.console import friendly, tell
from consortia.common.errors import InputError
from consortia.deploy.kit_signature import check_kit as check
from consortia.deploy.serve import PARTS, prepare, unit_texts
from consortia.deploy.serve import serve as run_parts

Kit = Annotated[Path, typer.Option(help="Its join kit, filled in.")]


@friendly
def check_kit(
    name: ParticipantName,
    kit: Annotated[Path, typer.Option(help="The join kit, as it came.")] = Path(),
    authority: Annotated[
        str, typer.Option(help="Fingerprint that the coordinator told by another way than the kit came.")
    ] = "",
) -> None:
    """Check that a join kit is the coordinator's, before anything in it is run: its files, signature, fingerprint."""
    found = check(kit, name, authority)
    tell(f"{kit}: each file is as it was signed for {name}, under the authority {found}")
    if not authority:
        tell(
            "anybody can sign a kit: ask the coordinator for this fingerprint by another way, or give it as --authority"
        )


@friendly
def serve(
    name: ParticipantName,
    kit: Kit = Path(),
    part: Annotated[str, typer.Option(help="supernode or launcher alone, as the units do; both without.")] = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="On which the two meet, on 127.0.0.1.")] = 9094,
) -> None:
    """Run a participant's SuperNode and launcher until a signal: both as the caller, so without walls between them."""
    if part and part not in PARTS:
        raise InputError(f"--part: wanted {' or '.join(PARTS)}, got {part!r}")
    folder = kit.resolve()
    if not part:
        _told(prepare(folder, name))
    raise typer.Exit(run_parts(folder, name, [part] if part else PARTS, port))


@friendly
def units(
    name: ParticipantName,
    kit: Kit = Path(),
    user: Annotated[str, typer.Option(help="The user whom the kit belongs to, and who runs both.")] = "consortia",
    to: Annotated[Path, typer.Option("--out", help="Where the units are written.")] = Path(),
) -> None:
    """Write two hardened systemd units, and what is missing in the kit: SuperNode and launcher, a wall between them."""
    folder = kit.resolve()
    texts = unit_texts(folder, name, user)
    _told(prepare(folder, name))
    for file, text in texts.items():
        (to / file).write_text(text, encoding="utf-8")
        tell(f"wrote {to / file}")


def _told(made: list[str]) -> None:
    if made:
        tell(f"made in the kit: {', '.join(made)}")
