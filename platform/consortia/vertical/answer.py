"""Answers one envelope of either mode, without Flower: the process of a message needs none of it."""

from __future__ import annotations

from consortia.messages.envelope import kind_of
from consortia.participant.handle import handle
from consortia.participant.home import Home
from consortia.participant.node_config import log_at_home
from consortia.vertical.handle import handle as handle_step
from consortia.vertical.request import STEPS


def answer(data: bytes, home: Home, source: str | None) -> bytes:
    """Answer one envelope in this process, whose log goes to the participant's folder."""
    log_at_home(home)
    return (handle_step if kind_of(data) in STEPS else handle)(data, home, source)
