"""Shortens Flower's fixed waits. This file and `flower_patience` hold everything in Flower that is replaced.

Flower polls where it could wait for an event. A SuperNode looks for a message every 3 s and for its answer every
.5 s. A SuperExec asks for a task every second. A pull that comes too early sleeps 1 s. None of these times can be set.
`REPLACED` names what is replaced; `flower_facts` knows it. If Flower has another version or one of these names differs,
nothing is replaced, the log says so, and rounds take the time of stock Flower. `CONSORTIA_STOCK_PACE=1` has the same
effect.

`AtHand` also changes which message a SuperNode accepts as an answer.
"""

from __future__ import annotations

import collections
import functools
import importlib
import logging
import math
import os
import threading
import time
import types
from collections.abc import Callable
from typing import Any, Final

from consortia.messages import flower_facts

log = logging.getLogger("consortia.pace")

SWITCH: Final = "CONSORTIA_STOCK_PACE"

#: How long a SuperNode keeps a launcher's request open while it has no work, and a SuperLink that of a SuperNode
#: (`consortia.deploy.held_questions`).
HELD_SECONDS: Final = 5.0

#: What a SuperNode waits before it asks again a SuperLink that kept its question open.
_AGAIN: Final = 0.01

#: So many waits must have ended before their length is used as a forecast.
_REMEMBERED: Final = 3

_BACKOFF: Final = {"initial_backoff": 0.01, "backoff_cap": 0.5}
_UTILS: Final = "flwr.supercore.inflatable.inflatable_utils"
_NODE: Final = "flwr.supernode.start_client_internal"
_STATE: Final = "flwr.supernode.nodestate.in_memory_nodestate"
_TASKS: Final = "flwr.supercore.servicer.runtime.runtime_handlers"

#: The replaced functions and those that this file relies on.
REPLACED: Final = (
    f"{_UTILS}:pull_objects",
    f"{_UTILS}:pull_and_inflate_object_from_tree",
    f"{_NODE}:start_client_internal",
    f"{_NODE}:_pull_and_store_message",
    f"{_NODE}:_push_messages",
    f"{_STATE}:InMemoryNodeState",
    f"{_TASKS}:acquire_task",
)


def speed_up(*, supernode: bool = False) -> bool:
    """Shorten the waits in this process. Return whether this was done.

    Parameters
    ----------
    supernode : bool
        Also those of a SuperNode's own loop.
    """
    if os.environ.get(SWITCH, "") not in {"", "0"}:
        return False
    if found := flower_facts.changes(REPLACED):
        log.warning("rounds keep Flower's own pace, since Flower is not the one that is known: %s", "; ".join(found))
        return False
    utils = importlib.import_module(_UTILS)
    for name in ("pull_objects", "pull_and_inflate_object_from_tree"):
        getattr(utils, name).__kwdefaults__.update(_BACKOFF)
    if supernode:
        _speed_up_supernode()
    return True


class Rhythm:
    """Polling waits that grow with the time waited so far: a share of it, between two bounds.

    Parameters
    ----------
    first, slowest : float
        Bounds of one wait in seconds.
    share : float
        Of the time waited so far.
    known : float
        The first wait is this share of the shortest of the last three waits. Rounds take similar times, and each poll
        that comes too early costs the other side time.
    """

    def __init__(self, first: float, slowest: float, share: float, known: float = 0.0) -> None:
        self._first, self._slowest, self._share, self._known = first, slowest, share, known
        self._since = time.monotonic()
        self._ended: collections.deque[float] = collections.deque(maxlen=_REMEMBERED)

    def restart(self) -> None:
        """Begin a new wait."""
        self._since = time.monotonic()

    def end(self) -> None:
        """End a wait, and remember how long it took."""
        self._ended.append(time.monotonic() - self._since)

    def next(self) -> float:
        """Return how long to wait now."""
        waited = time.monotonic() - self._since
        expected = self._known * min(self._ended) if len(self._ended) == _REMEMBERED else 0.0
        return min(max(self._first, waited * self._share, expected - waited), self._slowest)


class AtHand:
    """The message that a SuperNode works on. It takes no other message before the answer to this one is sent.

    Flower's loop sends any answer that it finds. An answer can be left over from an earlier message, whose run was over
    or whose process died. Then every later answer is one message late. And Flower waits without end for a message that
    gets no answer. Here the wait ends when nobody wants the answer any more.
    """

    def __init__(self) -> None:
        self._id = ""
        self._until = math.inf

    def noting(self, receive: Callable[[], Any]) -> Callable[[], Any]:
        """Return a function that receives a message and makes it the current one."""

        def noted() -> Any:
            received = receive()
            if received is not None:
                metadata = received[0].metadata
                self._id, self._until = metadata.message_id, time.monotonic() + metadata.ttl
            return received

        return noted

    def check(self) -> None:
        """Raise TimeoutError if nobody wants an answer to the message any more."""
        if time.monotonic() > self._until:
            raise TimeoutError

    def answer(self, push: Callable[..., None], *, state: Any, **options: Any) -> None:
        """Push answers until the one to this message is among them, or nobody wants it any more."""
        try:
            while True:
                push(state=state, **options)
                if self._id not in state.msg_store:  # Flower deletes a message with its answer
                    break
        except TimeoutError:
            log.warning("a message got no answer in its time; the next one is taken")
            state.delete_messages(message_ids=[self._id])
        self._until = math.inf


def _speed_up_supernode() -> None:
    node, tasks = importlib.import_module(_NODE), importlib.import_module(_TASKS)
    message = Rhythm(0.05, 1.0, 0.1, known=0.7)  # asks the SuperLink
    answer = Rhythm(0.005, 0.05, 0.05)  # reads this process's own memory
    ready = threading.Event()
    hand = AtHand()
    held = threading.Event()  # the SuperLink keeps questions open: there is nothing to wait for here

    def sleep(seconds: float) -> None:
        """Replace `time.sleep` in the SuperNode's loop: 3 s for a message, .5 s for an answer."""
        if seconds >= 1:
            time.sleep(_AGAIN if held.is_set() else min(seconds, message.next()))
        else:
            hand.check()
            message.restart()
            time.sleep(min(seconds, answer.next()))

    def pull(*, receive: Any, **options: Any) -> int | None:
        asked = time.monotonic()
        run_id: int | None = original_pull(receive=hand.noting(receive), **options)
        if run_id is None:
            (held.set if time.monotonic() - asked > HELD_SECONDS / 2 else held.clear)()
        else:
            message.end()
            answer.restart()
            ready.set()
        return run_id

    def acquire(request: Any, state: Any) -> Any:
        # A token's expiry is checked when somebody asks. Five seconds are much less than its lifetime.
        ready.wait(HELD_SECONDS)
        ready.clear()
        return original_acquire(request, state)

    original_pull: Callable[..., Any] = node._pull_and_store_message
    original_acquire: Callable[..., Any] = tasks.acquire_task
    clock = types.SimpleNamespace(**{name: getattr(time, name) for name in dir(time) if not name.startswith("_")})
    clock.sleep = sleep
    push = functools.partial(hand.answer, node._push_messages)
    vars(node).update(time=clock, _pull_and_store_message=pull, _push_messages=push)
    vars(tasks).update(acquire_task=acquire)
