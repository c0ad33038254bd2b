"""Flower's clients try again after a TLS handshake that timed out, as they do after any other time-out.

They try again for as long as nobody answers, except where the error's text has "ssl" or "tls" in it, as that of a wrong
certificate has. The text of a handshake that timed out has it, too ("_ssl.c: The handshake operation timed out"). So on
a host without free CPU time one slow handshake ended SuperExec, a SuperNode or a ServerApp, and with it the run. The
wait has the same limits as where nobody answers: the round's deadline, and the runner's wait for the SuperLink.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any, Final

import httpx

from consortia.messages import flower_facts

log = logging.getLogger("consortia.patience")

_MODULE: Final = "flwr.supercore.retry.retry_invoker"
_NAME: Final = "should_giveup"
#: What is replaced, and what decides when to give up.
REPLACED: Final = (f"{_MODULE}:RetryInvoker", "flwr.supercore.retry.http_retry:make_simple_http_retry_invoker")


def be_patient() -> bool:
    """Change this for every client of Flower in this process, made or to be made. Return whether it was done."""
    if found := flower_facts.changes(REPLACED):
        log.warning("a slow TLS handshake ends a process, since Flower is not the known one: %s", "; ".join(found))
        return False
    setattr(importlib.import_module(_MODULE).RetryInvoker, _NAME, property(_decision, _set_decision))
    return True


def _decision(invoker: Any) -> Callable[[Exception], bool] | None:
    gives_up = invoker.__dict__.get(_NAME)
    if gives_up is None:
        return None
    return lambda error: not isinstance(error, httpx.TimeoutException) and bool(gives_up(error))


def _set_decision(invoker: Any, gives_up: Callable[[Exception], bool] | None) -> None:
    invoker.__dict__[_NAME] = gives_up
