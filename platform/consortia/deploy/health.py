"""A loop's sign of life, which the container's health check (`platform/health.sh`) looks at."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

#: Names the file that a loop touches: a launcher whenever its SuperNode answered, SuperExec whenever the SuperLink did,
#: the runner while it follows a run.
ALIVE: Final = "CONSORTIA_ALIVE"


def alive() -> None:
    """Say that this process gets on; nothing where nobody asks."""
    if file := os.environ.get(ALIVE):
        with contextlib.suppress(OSError):  # a full disk is told elsewhere
            Path(file).touch()
