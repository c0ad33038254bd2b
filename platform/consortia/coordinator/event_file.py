"""Writes the public event file during a run, one JSON object in each line.

Every line has `event`, `time` (seconds since 1970), `run`, `round` and `participant` (null if the line is about
nobody). The file holds released and public values only. Everybody who may read the record may read it.

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

    A crash can leave an incomplete last line; it is removed before the next line is written. If the disk has no room,
    nothing of the line stays.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self._file = folder / FILE
        self._run = run_id
        self._open = -1

    def __call__(self, event: str, *, round: int | None = None, participant: str | None = None, **values: Any) -> None:
        """Append one line; `RunFailedError` if the disk has no room for it."""
        line = {"event": event, "time": time.time(), "run": self._run, "round": round, "participant": participant}
        with disk.kept(self._file.parent):
            if self._open < 0:  # the file stays open, because opening it takes ten times as long as writing
                self._file.parent.mkdir(parents=True, exist_ok=True)
                whole = len(_whole_lines(self._file))
                self._open = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
                os.ftruncate(self._open, whole)
                weakref.finalize(self, os.close, self._open)
            disk.append(self._open, (json.dumps({**line, **values}) + "\n").encode())

    def last_round(self) -> int:
        """Return the last round in the file; 0 if it has none."""
        return max((line["round"] for line in told(self._file.parent) if line["event"] == "round"), default=0)


def told(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the event file in `folder`; none if there is no file."""
    return [json.loads(line) for line in _whole_lines(folder / FILE).splitlines()]


def _whole_lines(file: Path) -> bytes:
    data = file.read_bytes() if file.is_file() else b""
    return data[: data.rfind(b"\n") + 1]
