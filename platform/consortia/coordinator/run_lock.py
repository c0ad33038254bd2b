"""Lets only one coordinator at a time use a run's folder. A second one is refused, and a killed one is logged."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from consortia.common.disk import kept
from consortia.common.errors import RunFailedError

log = logging.getLogger("consortia.coordinator")
FILE = "coordinator.lock"


@contextlib.contextmanager
def only_coordinator(folder: Path) -> Iterator[None]:
    """Lock a run's folder. Two coordinators would overwrite each other's checkpoints and record.

    The kernel frees the lock when its process ends, in any way. The file stays, because removing it would let a second
    coordinator in. On a network file system the lock works only if that system supports `flock`.

    Raises
    ------
    RunFailedError
        Another process holds the lock; the error names it. Nothing in the folder was changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFailedError(
                f"{folder}: wanted to be its only coordinator, got another one at work there ({_who(folder / FILE)}); "
                "wait for its end, or stop it, then go on with --resume"
            ) from None
        if left := _who(folder / FILE):
            log.warning(
                "%s: the coordinator before (%s) ended without closing the run: killed, out of memory, or the host "
                "went down. The run goes on from its last checkpoint; a round after that is asked for again, and "
                "participants answer it from their outbox without a second charge",
                *(folder.name, left),
            )
        file.truncate(0)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        who = json.dumps({"process": os.getpid(), "host": os.uname().nodename, "started": started})
        with kept(folder):
            file.write(who.encode())
        try:
            yield
        finally:
            file.truncate(0)


def _who(path: Path) -> str:
    """Return who wrote the lock file; nothing if its run was closed."""
    text = path.read_text(encoding="utf-8")
    if not text:
        return ""
    try:
        found = json.loads(text)
        return f"process {found['process']} on {found['host']}, since {found['started']}"
    except (ValueError, KeyError, TypeError):
        return "unknown"
