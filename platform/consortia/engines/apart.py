"""Participants of a simulation in processes of their own: forks of this one, so that a run uses every core.

Guarantees
----------
* A participant answers as it would in this process, to the bit, and has the same process for the whole run.
* Nothing is forked while another thread of Python's runs: a lock that it held would stay locked in the fork for ever.
* A fork fills its global generators from the operating system, and ends with this process, however that ends.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Final

from consortia.common.forked import end_with_parent, fresh_globals
from consortia.terms.scenario import Scenario

__all__ = ["Apart", "useful", "warm"]

#: Each keeps the rows of its participants: a bound for memory.
_MOST: Final = 8
#: What every participant loads for its own models, and what it loads besides for a network or to keep a vertical model.
_LAZY: Final = ("sklearn.ensemble", "sklearn.linear_model", "sklearn.model_selection", "sklearn.tree")
_LAZY_NETWORK: Final = ("privacy._optimizer", "torch._dynamo", "torch.func")
_LAZY_VERTICAL: Final = ("skops.io",)


def useful(participants: int) -> int:
    """Return how many processes so many participants can use here; 1 where nothing may be forked."""
    return 1 if threading.active_count() > 1 else min(participants, len(os.sched_getaffinity(0)), _MOST)


def warm(scenario: Scenario) -> None:
    """Load once what each process would load by itself."""
    modules = set(_LAZY)
    for contract in (part.contract for part in scenario.parts()):
        if contract.vertical is not None:
            modules |= set(_LAZY_VERTICAL)
        elif contract.noisy_sums is None:
            modules |= set(_LAZY_NETWORK)
    for module in sorted(modules):
        importlib.import_module(module)


class Apart:
    """Forks that answer questions, each question in the process that its number belongs to.

    Parameters
    ----------
    answer : callable
        Runs in the fork. It must not raise.
    count : int
    """

    def __init__(self, answer: Callable[[bytes], bytes], count: int) -> None:
        context = multiprocessing.get_context("fork")
        self._links: list[Connection] = []
        self._processes = []
        for _ in range(count):
            mine, its = context.Pipe()
            self._links.append(mine)
            process = context.Process(target=_serve, args=(its, self._links, answer), daemon=True)
            process.start()
            its.close()
            self._processes.append(process)

    def ask(self, number: int, data: bytes) -> bytes:
        """Return the answer of process `number`. One thread at a time may ask it.

        Raises
        ------
        EOFError, OSError
            The process has ended.
        """
        self._links[number].send_bytes(data)
        return self._links[number].recv_bytes()

    def close(self, number: int) -> None:
        """End process `number`. Nobody may be asking it."""
        self._links[number].close()
        self._processes[number].join()


def _serve(link: Connection, others: Sequence[Connection], answer: Callable[[bytes], bytes]) -> None:
    """Answer until the other end is closed."""
    import torch

    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C asks all processes; this one ends when its parent says so
    for other in others:
        other.close()
    fresh_globals()
    torch.set_num_threads(1)
    try:
        while True:
            link.send_bytes(answer(link.recv_bytes()))
    except (EOFError, OSError):
        return
