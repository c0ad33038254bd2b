"""The transport as the coordinator sees it: messages go out, answers come in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """The answer to one message: bytes, or a code that says why there are none."""

    participant: str
    data: bytes | None
    code: str = ""


#: Sends one envelope to each named participant, waits up to the deadline, and yields each answer when it comes. An
#: answer to an older attempt has the code LATE_REPLY.
Exchange = Callable[[str, Mapping[str, bytes], float], Iterable[Answer]]
