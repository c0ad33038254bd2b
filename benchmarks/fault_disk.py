"""Folders on small disks of their own, and full ones: a tmpfs, so it wants root."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BALLAST = "ballast"


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Put a folder, with what lies in it, on a file system of its own of that size."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder.with_name(f".{folder.name}")
    shutil.copytree(folder, kept)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        raise RuntimeError(f"mount: {mounted.stderr.decode()[:200]}")
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take all that is left of a folder's disk."""
    with contextlib.suppress(OSError), (folder / _BALLAST).open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def make_room(folder: Path) -> None:
    """Give back what `fill` took."""
    (folder / _BALLAST).unlink()


@contextlib.contextmanager
def full_disk(home: Path) -> Iterator[None]:
    """Put a home on a file system of its own with nothing left."""
    with small_disk(home, "512k"):
        fill(home)
        yield


def fills(folder: Path, seconds: float | None = None) -> Any:
    """Return a fault (see `faults.Fault`): the folder's disk is full, for so many seconds or until `make_room`."""

    def fault(_: object) -> None:
        fill(folder)
        if seconds is not None:
            time.sleep(seconds)
            make_room(folder)

    return fault
