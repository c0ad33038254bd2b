"""The meaning of each code that comes in place of an answer, in one sentence for the operator of the run.

Flower's own codes are numbers (`flwr.common.constant.ErrorCode`); here they are `FLOWER_ERROR_<number>`. A test
compares the two.
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
    "BUDGET_EXHAUSTED": "its budget is spent; its owner raises budget.lifetime, or the roster goes on without it",
    "CONTRACT_NOT_ALLOWED": "it does not accept this contract; its owner reads it and runs `consortia budget allow`",
    "NO_POLICY": "it has no policy",
    "NO_LEDGER": "it has no ledger; its owner runs `consortia home init` or `consortia budget init`",
    "DATASET_NOT_OFFERED": "its policy offers no such data set; see roster.dataset and roster.industry",
    "UNIT_MISMATCH": "its policy protects another unit than roster.unit says; one of the two has to change",
    "RELEASE_NOT_ALLOWED": "its policy does not let leave what the contract wants; `consortia preflight` names it",
    "NON_PRIVATE_NOT_ALLOWED": "it was proposed a non-private run, which its policy does not allow",
    "NO_PRETRAINED_FILE": "it lacks the file that the network starts from; `consortia home log` says where it goes",
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
    """Return the sentence of a code; an empty text for a code that explains itself."""
    number = code.removeprefix(PREFIX)
    if number != code and number.isdecimal():
        return _FLOWER.get(int(number), "an error of Flower that has no name here; its SuperNode's log says more")
    return _MEANINGS.get(code, "")
