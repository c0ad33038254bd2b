"""Answers a message of a vertical run at a participant."""

from __future__ import annotations

from consortia.common.errors import RefusedError
from consortia.common.logs import about
from consortia.participant.guard import guarded
from consortia.participant.home import Home
from consortia.vertical.owner import Owner
from consortia.vertical.partner import Partner
from consortia.vertical.request import Step

__all__ = ["handle"]


def handle(data: bytes, home: Home, source: str | None = None) -> bytes:
    """Answer one message of a vertical run. Parameters and guarantees are those of
    `consortia.participant.handle.handle`."""

    def work() -> bytes:
        step = Step.parse(data)
        about(step.run_id, step.batch + 1)
        if step.participant != home.participant:
            raise RefusedError("WRONG_PARTICIPANT", "the message is for somebody else")
        with home.exclusive(step.contract.round.deadline_seconds):
            role = Owner if step.participant == step.terms.label_owner else Partner
            return role(step, home, source).answer()

    return guarded(home.participant, work)
