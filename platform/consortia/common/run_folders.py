"""Finds the folders of runs. It loads nothing heavy, so a command with a wrong path is refused at once."""

from __future__ import annotations

from pathlib import Path

from consortia.common.environment import default_root
from consortia.common.errors import InputError

__all__ = ["check_finished", "check_there", "run_folder"]


def check_finished(folder: Path, *files: str) -> None:
    """Refuse a folder that lacks one of `files`, which a finished run has."""
    if lacking := [name for name in files if not (folder / name).is_file()]:
        raise InputError(f"{folder}: wanted the folder of a finished run with {', '.join(lacking)}, got none")


def check_there(run: str) -> None:
    """Refuse a path with no folder; the id of a run is no path."""
    if Path(run).name != run and not Path(run).is_dir():
        raise InputError(f"{run}: wanted the folder of a run, got nothing there; check the path")


def run_folder(run: str, participant: str) -> Path:
    """Return where a participant keeps what is its own of a run; InputError when no receipt lies there."""
    check_there(run)
    name = Path(run).name
    places = [Path(run) / "participants" / participant / "runs" / name, default_root() / participant / "runs" / name]
    for place in places:
        if (place / "receipt.json").is_file():
            return place
    raise InputError(
        f"{run}: wanted a run with a receipt of {participant!r}, got none in {places[0]} nor in {places[1]}; check the "
        "run, the participant's name and $CONSORTIA_HOME"
    )
