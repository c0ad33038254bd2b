"""What a code means that stands where an answer should be: one sentence each, for whoever waits for the run.

Flower's own codes are numbers (`flwr.common.constant.ErrorCode`; a test compares), here `FLOWER_ERROR_<number>`.
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "FLOWER_ERROR_"

_MEANINGS: Final = {
    "NO_REPLY": "it did not answer in time; if it is back for the next attempt, its answer counts",
    "LATE_REPLY": "it answered a question that nobody waits for any more",
    "NOT_JOINED": "it is not connected; it is waited for, and asked when it is back",
    "NOT_PUSHED": "the SuperLink did not take its message",
    "BAD_REPLY": "its answer is not what was asked for; it is dropped",
    "HOME_UNREADABLE": "its home belongs to another user than its app runs as; `chown -R` it there",
    "PARTICIPANT_ERROR": "it failed by itself; `consortia home log` names the incident there",
}

_FLOWER: Final = {
    0: "its SuperNode failed and does not say why; its own log does",
    1: "its SuperNode could not start an app; it runs `flower-superexec` where it needs the launcher",
    2: "an app there raised an error; it runs `flower-superexec` where it needs the launcher",
    3: "its message waited too long and was given up before it was fetched",
    4: "its answer came too late and was given up",
    5: "its SuperNode went away in the middle; it is waited for, and asked again when it is back",
    6: "a condition of one of Flower's mods there does not hold",
    7: "its SuperNode did not take the run's bundle",
    8: "its launcher could not say in time that it still worked (too little CPU, or killed); it is asked again",
}


def meaning(code: str) -> str:
    """Return the sentence of a code; nothing for a code that says itself what it is."""
    number = code.removeprefix(PREFIX)
    if number != code and number.isdecimal():
        return _FLOWER.get(int(number), "an error of Flower that has no name here; its SuperNode's log says more")
    return _MEANINGS.get(code, "")
