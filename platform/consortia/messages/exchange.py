"""The transport as the coordinator sees it: messages go out, answers come in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What came back for one message: bytes, or the code of why there are none."""

    participant: str
    data: bytes | None
    code: str = ""


#: Sends one envelope to each named participant, waits up to the deadline, gives each answer when it comes. An answer to
#: an older attempt has the code LATE_REPLY.
Exchange = Callable[[str, Mapping[str, bytes], float], Iterable[Answer]]
