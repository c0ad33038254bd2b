"""Writes files whole or not at all. A full disk is a named error."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from consortia.common.errors import RunFailedError

#: No room, no room in a quota, and the largest file that a process may write.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ADVICE = "what was committed is kept: make room, then go on with --resume"
#: Bytes without which a run's folder counts as full: logs, events and a record need as much.
_LEAST = 2**20


def replace(path: Path, data: bytes) -> None:
    """Write a file durably: a reader sees the old one or the new one, never a part. The file keeps its mode."""
    draft = path.with_name(path.name + ".tmp")
    with settled(draft, path), draft.open("wb") as file:
        if path.exists():
            os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, data: object) -> None:
    """Write JSON durably: a reader sees the old file or the new one, never a part."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text durably, as `write_json` does; the file keeps its mode."""
    replace(path, text.encode())


@contextlib.contextmanager
def settled(draft: Path, path: Path) -> Iterator[None]:
    """Move a draft into its place once it is written and closed; where that fails, nothing of it stays."""
    try:
        yield
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def append(descriptor: int, data: bytes) -> None:
    """Write at the end of an open file: all of it or, where there is no room, nothing."""
    whole = os.fstat(descriptor).st_size
    try:
        while data:  # the kernel writes what there is room for
            data = data[os.write(descriptor, data) :]
    except OSError:
        os.ftruncate(descriptor, whole)
        raise


def append_json(path: Path, line: object) -> None:
    """Write one line of JSON at the end of a file, as `append` does."""
    with path.open("ab", buffering=0) as file:
        append(file.fileno(), (json.dumps(line) + "\n").encode())


def no_room(error: OSError) -> str:
    """Return the reason why something could not be written for want of room; nothing for any other error."""
    return f"no room on the disk ({error.strerror}); {_ADVICE}" if error.errno in _NO_ROOM else ""


def why_full(folder: Path) -> str:
    """Return why a run can write nothing into its folder; nothing when there is room."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, _LEAST)
    except OSError as error:
        return f"{folder}: {reason}" if (reason := no_room(error)) else ""
    return ""


@contextlib.contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Name the failure when something of a run cannot be written into its folder.

    Raises
    ------
    RunFailedError
    """
    try:
        yield
    except OSError as error:
        raise RunFailedError(f"{folder}: {no_room(error) or f'{error.strerror}; {_ADVICE}'}") from error
