"""A home on a full disk of its own: a tmpfs, so it wants root."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def full_disk(home: Path) -> Iterator[None]:
    """Put a home on a file system of its own with nothing left."""
    kept = home.with_name(f".{home.name}")
    shutil.copytree(home, kept)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(home)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        raise RuntimeError(f"mount: {mounted.stderr.decode()[:200]}")
    try:
        shutil.copytree(kept, home, dirs_exist_ok=True)
        with contextlib.suppress(OSError), (home / "ballast").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        yield
    finally:
        subprocess.run(["umount", "-l", str(home)], check=True)
