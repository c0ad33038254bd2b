"""Turns every exception at a participant into a refusal code or an incident id."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from consortia.common.errors import RefusedError, describe
from consortia.common.logs import one_message
from consortia.messages.envelope import REFUSALS, Envelope, encode
from consortia.terms.pretrained import PretrainedError

log = logging.getLogger("consortia.participant")


def guarded(participant: str, work: Callable[[], bytes]) -> bytes:
    """Return what `work` returns. A refusal is sent as its code, any other failure as an incident id.

    The log at home has the type of the error and its place in the code, never its text: a text may hold a value of a
    row. A code that is none of ours came with foreign code, so it is an incident, too.
    """
    with one_message():
        try:
            return _named(work)
        except RefusedError as error:
            if error.code not in REFUSALS:
                return _incident(participant, error)
            log.warning("%s: refused: %s", participant, error)
            status = "RECEIVE_ONLY" if error.code == "BUDGET_EXHAUSTED" else "REFUSED"
            return encode(Envelope({"status": status, "code": error.code, "participant": participant}))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, only a code and an id may cross
            return _incident(participant, error)


def _incident(participant: str, error: BaseException) -> bytes:
    incident = secrets.token_hex(8)
    log.error("%s: incident %s: %s", participant, incident, describe(error))
    header = {"status": "FAILED", "code": "PARTICIPANT_ERROR", "incident": incident, "participant": participant}
    return encode(Envelope(header))


def _named(work: Callable[[], bytes]) -> bytes:
    """Return what `work` returns. Whatever is wrong with a file to start from, one code tells of it in every message.

    The contract names the path: several codes would tell a coordinator what lies at a path of its choice.
    """
    try:
        return work()
    except PretrainedError as error:
        raise RefusedError("NO_PRETRAINED_FILE", str(error)) from None
