"""A home on a small disk of its own, and that disk full: a tmpfs, so it wants root."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_BALLAST = "ballast"


@contextlib.contextmanager
def own_disk(home: Path, size: str) -> Iterator[None]:
    """Put a home on a small file system of its own; what it holds at the end is kept."""
    kept = home.with_name(f".{home.name}")
    shutil.copytree(home, kept)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(home)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        raise RuntimeError(f"mount: {mounted.stderr.decode()[:200]}")
    try:
        shutil.copytree(kept, home, dirs_exist_ok=True)
        yield
        shutil.rmtree(kept)
        shutil.copytree(home, kept, ignore=shutil.ignore_patterns(_BALLAST))
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)
    shutil.copytree(kept, home, dirs_exist_ok=True)


@contextlib.contextmanager
def full_disk(home: Path) -> Iterator[None]:
    """Put a home on a file system of its own with nothing left."""
    with own_disk(home, "256k"):
        fill(home)
        yield


def fill(home: Path) -> None:
    """Write until nothing more fits."""
    with contextlib.suppress(OSError), (home / _BALLAST).open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
