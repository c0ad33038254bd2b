"""`python -m consortia.deploy.health`: a container's health check.

Asks `$CONSORTIA_HEALTH_URL`, trusting `$CONSORTIA_HEALTH_CA` alone, and looks when `$CONSORTIA_ALIVE` was last touched
by who works in a loop (`alive`); what is not set is not asked.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
import time
import urllib.request
from pathlib import Path
from typing import Final

#: The file that a loop touches: a launcher whenever its SuperNode answered, the runner while it follows a run.
ALIVE: Final = "CONSORTIA_ALIVE"
_SECONDS: Final = 3.0
#: A launcher hears from its SuperNode every 5 s, and every 15 s while it works on a message.
_OLDEST_SECONDS: Final = 60.0


def alive() -> None:
    """Say that this process gets on; nothing where nobody asks."""
    if file := os.environ.get(ALIVE):
        with contextlib.suppress(OSError):  # a full disk is told elsewhere
            Path(file).touch()


def main() -> int:
    """Return 0 when the service answers 200 and its loop was alive lately."""
    if (file := os.environ.get(ALIVE)) and not _lately(Path(file)):
        return 1
    url = os.environ.get("CONSORTIA_HEALTH_URL", "")
    if not url:
        return 0
    if not url.startswith("https://"):
        return 2
    context = ssl.create_default_context(cafile=os.environ["CONSORTIA_HEALTH_CA"])
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS, context=context) as answer:  # noqa: S310 - https, above
            return 0 if answer.status == 200 else 1
    except OSError:
        return 1


def _lately(file: Path) -> bool:
    try:
        return time.time() - file.stat().st_mtime < _OLDEST_SECONDS
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
