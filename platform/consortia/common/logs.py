"""Writes a participant's own log: one JSON object a line, with run, round and participant. It stays at home."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from clients.masking import masked

_ABOUT: ContextVar[tuple[str | None, int | None]] = ContextVar("about", default=(None, None))


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON; null is what a line is not about.

    Parameters
    ----------
    participant : str or None
        Whose log it is.
    """

    def __init__(self, participant: str | None) -> None:
        super().__init__()
        self._participant = participant

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, secrets masked. An exception's text is left out: it may hold a value of a row."""
        run, number = _ABOUT.get()
        line = {
            "time": record.created,
            "level": record.levelname,
            "logger": record.name,
            "run": run,
            "round": number,
            "participant": self._participant,
            "message": masked(record.getMessage()),
        }
        return json.dumps(line, ensure_ascii=False)


class OwnFile(logging.FileHandler):
    """A participant's log file; a line that its disk does not take goes to the console of its own process.

    Parameters
    ----------
    file : Path
    participant : str
        Whose log it is.
    """

    def __init__(self, file: Path, participant: str) -> None:
        super().__init__(file, encoding="utf-8", delay=True)
        self.setFormatter(JsonLines(participant))

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line; a file that cannot even be opened is no error of whoever logs."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Write the line to standard error; what the file took of it stays there."""
        sys.stderr.write(self.format(record) + "\n")

    def close(self) -> None:
        """Close the file. What its disk did not take was said already: a log never fails a run."""
        with suppress(OSError):
            super().close()


@contextmanager
def quieter(level: int, *names: str) -> Iterator[None]:
    """Let these loggers say nothing below a level, until the block ends."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, kept in zip(loggers, before, strict=True):
            logger.setLevel(kept)


def tolerant_streams() -> None:
    """Let standard output take every character: what a terminal's encoding lacks is written as an escape.

    A table is printed after the run was charged; an ε on a Latin-1 terminal must not end it in a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def one_message() -> Iterator[None]:
    """Bound what `about` says to the work on one message."""
    token = _ABOUT.set((None, None))
    try:
        yield
    finally:
        _ABOUT.reset(token)


def about(run: str, number: int) -> None:
    """Say which run and round the lines from here on are about."""
    _ABOUT.set((run, number))
