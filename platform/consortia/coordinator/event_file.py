"""Writes the public event file of a run, one JSON object a line, while the run goes on.

Every line has `event`, `time` (seconds since 1970), `run`, `round` and `participant` (null where a line is about none).
It holds released and public values only; whoever may read the record may read it.

    joining  absent: names of who has not joined yet
    start    rounds, done           heard    kind, bytes: an answer came (not yet believed)
    asked    kind, bytes            failure  attempt, code, detail
    round    history's line and `members`, the coordinator's counters of everybody; `step` in a vertical run
    end      status, reason, members
"""

from __future__ import annotations

import json
import os
import time
import weakref
from pathlib import Path
from typing import Any

from consortia.common import disk

FILE = "events.jsonl"


class EventFile:
    """Appends to the event file of one run.

    A line is written whole or, by a crash, without its end: such an end is cut off before the next line. On a disk
    without room nothing of it stays.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self._file = folder / FILE
        self._run = run_id
        self._open = -1

    def __call__(self, event: str, *, round: int | None = None, participant: str | None = None, **values: Any) -> None:
        """Append one line; `RunFailedError` when there is no room for it."""
        line = {"event": event, "time": time.time(), "run": self._run, "round": round, "participant": participant}
        with disk.kept(self._file.parent):
            if self._open < 0:  # opening costs ten times as much as writing
                self._file.parent.mkdir(parents=True, exist_ok=True)
                whole = len(_whole_lines(self._file))
                self._open = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
                os.ftruncate(self._open, whole)
                weakref.finalize(self, os.close, self._open)
            disk.append(self._open, (json.dumps({**line, **values}) + "\n").encode())

    def last_round(self) -> int:
        """Return the last round that the file tells of; 0 when of none."""
        return max((line["round"] for line in told(self._file.parent) if line["event"] == "round"), default=0)


def told(folder: Path) -> list[dict[str, Any]]:
    """Return what the event file in `folder` tells, line by line; nothing where there is none."""
    return [json.loads(line) for line in _whole_lines(folder / FILE).splitlines()]


def _whole_lines(file: Path) -> bytes:
    data = file.read_bytes() if file.is_file() else b""
    return data[: data.rfind(b"\n") + 1]
