"""Remembers at home which message failed after its charge and would fail again, so that it is charged only once.

The reply is still PARTICIPANT_ERROR with an incident id, because such a failure depends on rows. A temporary failure (a
full disk, a killed process, a late partner) is not remembered and may be tried again.
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

#: What the release gate refuses (for example after divergence), and errors of rows or schema.
REPEATS = (ReleaseRefusedError, ClientError)
_FILE = "hopeless"


def check(work: Work) -> None:
    """Raise ConsortiaError if this same message failed before, after its charge."""
    file = work.home.run_folder(work.request.run_id) / _FILE
    if file.is_file() and file.read_text(encoding="utf-8") == work.key:
        raise ConsortiaError(
            f"round {work.request.round}: failed before with the same model, and would again (the incident before this "
            "one says why); not trained again, nothing more is charged"
        )


def note(work: Work) -> None:
    """Remember the message if it was charged."""
    if work.charged:
        write_text(work.home.run_folder(work.request.run_id) / _FILE, work.key)
