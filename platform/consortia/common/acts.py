"""The log of administrative acts: one JSON object a line, each with the head of a hash chain, in `acts.jsonl`.

It lies in the folder whose affairs it tells: a participant's home; the coordinator's folders of runs, members and
certificates. A line says when (UTC), who, which act, about what, and how it stands:

    begun, then done or failed    an act that changes something; nothing is changed before its first line is on the disk
    done, refused                 an act that is over at once: somebody signed in, or did not

Guarantees: a line holds the words that the code gives, a name of our own kind, and who acted; no value of a row, no
secret, no text of an error. A line is only ever put at the end. `verify` finds a line that was changed, left out or put
in; lines cut off at the end it finds where a head from before is given to it. Whoever may write the file can write all
of it anew, so keep a head elsewhere now and then.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import fcntl
import getpass
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from consortia.common import disk
from consortia.common.errors import ConsortiaError, InputError
from privacy.hash_chain import ZERO, next_head

__all__ = ["FILE", "Act", "BrokenActsError", "acting", "noted", "record", "verify"]

FILE: Final = "acts.jsonl"
_ACT: Final = re.compile(r"[a-z-]{2,20}(\.[a-z-]{2,20})?")
_OUTCOMES: Final = frozenset({"begun", "done", "failed", "refused"})
_LONGEST: Final = 200
_who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="")


@dataclass(frozen=True)
class Act:
    """One line.

    Attributes
    ----------
    n : int
        Its number, from 1 on.
    time : str
        UTC, ISO 8601.
    who : str
        The user of this machine, `token`, `token for changes`, or the subject that a provider signed in.
    act, about, outcome : str
        For instance `participant.remove`, `factory-d`, `done`.
    head : str
        Of the chain with this line, in hex.
    """

    n: int
    time: str
    who: str
    act: str
    about: str
    outcome: str
    head: str


class BrokenActsError(ConsortiaError):
    """A log of acts whose chain is not whole (exit status 1)."""


@contextlib.contextmanager
def acting(who: str) -> Iterator[None]:
    """Name who acts, in this context and what it starts; without it, it is the user of this machine."""
    before = _who.set(who)
    try:
        yield
    finally:
        _who.reset(before)


@contextlib.contextmanager
def noted(folder: Path, act: str, about: str = "") -> Iterator[None]:
    """Note an act before it begins and after its end.

    Raises
    ------
    InputError
        As `record`, before anything was done. What the act itself raises goes on.
    """
    record(folder, act, about, "begun")
    try:
        yield
    except BaseException:
        record(folder, act, about, "failed")
        raise
    record(folder, act, about, "done")


def record(folder: Path, act: str, about: str = "", outcome: str = "done") -> str:
    """Put one line at the end, durably, and return the chain's new head.

    Raises
    ------
    InputError
        When the file cannot be written, or ends with a line that is none.
    """
    if not _ACT.fullmatch(act) or outcome not in _OUTCOMES:
        raise ValueError(f"act: wanted a word of ours, got {act!r}, {outcome!r}")
    file = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            last = _last(descriptor, file)
            fields = (_now(), _one_line(_who.get() or _user()), _one_line(about), outcome)
            number = last.n + 1 if last else 1
            head = next_head(last.head if last else ZERO, number, act, fields)
            time, who, about, outcome = fields
            disk.append(
                descriptor, (json.dumps(asdict(Act(number, time, who, act, about, outcome, head))) + "\n").encode()
            )
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise InputError(f"{file}: wanted to note the act, got {error.strerror}; nothing was done") from None
    return head


def verify(file: Path, known: str = "") -> list[Act]:
    """Return all lines of a log whose chain is whole.

    Parameters
    ----------
    known : str
        A head that somebody kept, or its first characters: it must be in the chain.

    Raises
    ------
    BrokenActsError
        The first line that does not follow from those before it; or `known` is in none.
    """
    head, found = ZERO, []
    data = file.read_bytes()
    for place, text in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
        line = _parsed(text)
        if line is None or line.n != place or line.head != next_head(head, place, line.act, _fields(line)):
            raise BrokenActsError(
                f"{file}: wanted line {place} to follow from those before it, got another; a line was changed, left "
                "out or put in"
            )
        head = line.head
        found.append(line)
    if known and not any(line.head.startswith(known) for line in found):
        raise BrokenActsError(f"{file}: wanted the head {known[:12]} in the chain, got {len(found)} lines without it")
    return found


def _last(descriptor: int, file: Path) -> Act | None:
    """Return the last line; what a crash left of one is cut off."""
    data = b""
    end = position = os.fstat(descriptor).st_size
    while position and data.count(b"\n") < 2:
        step = min(position, 4096)
        position -= step
        data = os.pread(descriptor, step, position) + data
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.ftruncate(descriptor, end - (len(data) - whole))
    lines = data[:whole].splitlines()
    if not lines:
        return None
    found = _parsed(lines[-1])
    if found is None:
        raise InputError(
            f"{file}: wanted a line of acts at its end, got another; `consortia home log --acts` says which"
        )
    return found


def _parsed(text: bytes) -> Act | None:
    try:
        found = Act(**json.loads(text))
        known = isinstance(found.n, int) and all(isinstance(each, str) for each in (found.act, found.head))
        bytes.fromhex(found.head)
    except (ValueError, TypeError):
        return None
    return found if known else None


def _fields(line: Act) -> tuple[str, str, str, str]:
    return line.time, line.who, line.about, line.outcome


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _user() -> str:
    try:
        return f"user {getpass.getuser()}"
    except (OSError, KeyError):  # a container's user has no name
        return f"user {os.getuid()}"


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)[:_LONGEST]
