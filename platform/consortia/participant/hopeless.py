"""Remembers at home which message failed after its charge in a way that would repeat, so that it is charged once.

The reply stays what it was, PARTICIPANT_ERROR with an incident id, since such a failure depends on rows. A fault that
passes (a full disk, a killed process, a late partner) is not among them and may be tried again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clients.errors import ClientError
from consortia.common.disk import write_text
from consortia.common.errors import ConsortiaError
from privacy.errors import ReleaseRefusedError

if TYPE_CHECKING:
    from consortia.participant.context import Work

__all__ = ["REPEATS", "check", "note"]

#: What the release gate refuses (training diverged, say), and what rows and schema cannot be.
REPEATS = (ReleaseRefusedError, ClientError)
_FILE = "hopeless"


def check(work: Work) -> None:
    """Raise ConsortiaError where this very message failed before after its charge."""
    file = work.home.run_folder(work.request.run_id) / _FILE
    if file.is_file() and file.read_text(encoding="utf-8") == work.key:
        raise ConsortiaError(
            f"round {work.request.round}: failed before with the same model, and would again (the incident before this "
            "one says why); not trained again, nothing more is charged"
        )


def note(work: Work) -> None:
    """Remember the message, where it was charged."""
    if work.charged:
        write_text(work.home.run_folder(work.request.run_id) / _FILE, work.key)
