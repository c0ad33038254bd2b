"""Reads what went wrong out of a participant's own log. It may be shown to the participant alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_WRONG = frozenset({"WARNING", "ERROR", "CRITICAL"})


@dataclass(frozen=True)
class Trouble:
    """One refusal or failure: when (seconds since the epoch), of which run and round, and what the log says of it."""

    time: float
    run: str | None
    round: int | None
    text: str


def troubles(log: Path) -> Iterator[Trouble]:
    """Return what a log says of refusals and failures, oldest first; nothing without a log.

    The log holds no value of a row: of a foreign error only kind and place (`consortia.common.errors.describe`).
    """
    if not log.is_file():
        return
    for text in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
            if line["level"] in _WRONG:
                yield Trouble(float(line["time"]), line["run"], line["round"], str(line["message"]))
        except (ValueError, KeyError, TypeError):
            continue  # a line that a kill cut short
