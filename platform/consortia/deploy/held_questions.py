"""Lets the SuperLink answer a SuperNode's question for messages when there is one, not at once.

A SuperNode that has nothing to do asks and asks. Each question costs the SuperLink and the SuperNode some milliseconds
of CPU time, and the next message waits for the next question. Here a question is kept open until a message for its node
is stored, at most `HELD_SECONDS`. Then Flower answers it, as it would have.

* Only the time of the answer differs. Flower's own checks come afterwards, with the same request.
* Whoever hangs up while it is kept gets no message: Flower would note the message as delivered, and nobody had it.
* A kept question is a coroutine; it has no thread. At most one is kept for a node.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import logging
import os
from base64 import b64decode
from collections import Counter
from typing import Any, Final

from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consortia.messages import flower_facts
from consortia.messages.flower_pace import HELD_SECONDS, SWITCH

__all__ = ["REPLACED", "Held", "wanted"]

_PATH: Final = "/v1/fleet/pull-messages"
#: A message is stored before its parts are; a question for parts that are not there yet is one for nothing.
_PARTS_SECONDS: Final = 0.03
#: A question is a key and a number. What is longer is not kept here.
_LARGEST: Final = 1 << 14

#: What is rested on: when a message is stored, and that asking takes it.
REPLACED: Final = (
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState",
    "flwr.superlink.servicer.fleet.fleet_handlers:pull_messages",
    "flwr.superlink.routers.fleet.router:",
    "flwr.supercore.constant:FLEET_HTTP_PUBLIC_KEY_HEADER",
)

log = logging.getLogger("consortia.pace")


def wanted() -> bool:
    """Return whether questions are to be held here: Flower is the one that is known, and nobody wants its own pace."""
    if os.environ.get(SWITCH, "") not in {"", "0"}:
        return False
    if found := flower_facts.changes(REPLACED):
        log.warning("questions are answered at once, since Flower is not the one that is known: %s", "; ".join(found))
        return False
    return True


class Held:
    """A layer of the SuperLink that keeps questions for messages open.

    Parameters
    ----------
    app : ASGIApp
        What answers; its `state.linkstate_factory` knows nodes and messages. Only messages in memory are waited for:
        of those in a database this process need not know when they are stored.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._state: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stored: Counter[int] = Counter()
        self._waiting: dict[int, asyncio.Event] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; one for messages when there is one, or later."""
        node = self._node(scope) if scope["type"] == "http" and scope["path"] == _PATH else None
        if node is not None and (body := await _whole(receive)) is not None:
            told, gone = [{"type": "http.request", "body": body, "more_body": False}], False
            if not self._stored[node]:
                gone = await self._wait(node, receive)
            if gone:
                return
            self._stored[node] = max(0, self._stored[node] - 1)

            async def again() -> Message:
                return told.pop() if told else await receive()

            await self.app(scope, again, send)
            return
        await self.app(scope, receive, send)

    def _node(self, scope: Scope) -> int | None:
        """Return who asks; None for whoever is not waited for. Flower checks the signature afterwards."""
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if not length.isdecimal() or int(length) > _LARGEST:
            return None
        state = scope["app"].state.linkstate_factory.state()
        if not isinstance(state, InMemoryLinkState):
            return None
        if state is not self._state:
            self._loop = asyncio.get_running_loop()
            self._follow(state)
        try:
            key = b64decode(headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER, ""), validate=True)
        except binascii.Error:
            return None
        node: int | None = state.get_node_id_by_public_key(key)
        return None if node in self._waiting else node

    def _follow(self, state: Any) -> None:
        """Learn of each message that is stored from now on, and of those that were stored before."""
        store = state.store_message_ins

        def noted(message: Any) -> Any:
            stored = store(message)
            if stored is not None and self._loop is not None:
                self._loop.call_soon_threadsafe(self._note, message.metadata.dst_node_id)
            return stored

        self._state, state.store_message_ins = state, noted
        self._stored.update(message.metadata.dst_node_id for message in list(state.message_ins_store.values()))

    def _note(self, node: int) -> None:
        self._stored[node] += 1
        if node in self._waiting:
            self._waiting[node].set()

    async def _wait(self, node: int, receive: Receive) -> bool:
        """Wait for a message, or as long as is allowed. Return whether the asker hung up."""
        stored = self._waiting[node] = asyncio.Event()
        left, came = asyncio.ensure_future(receive()), asyncio.ensure_future(stored.wait())
        try:
            done, _ = await asyncio.wait({left, came}, timeout=HELD_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if came in done and left not in done:
                done, _ = await asyncio.wait({left}, timeout=_PARTS_SECONDS)
            return left in done
        finally:
            del self._waiting[node]
            for task in (left, came):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def _whole(receive: Receive) -> bytes | None:
    """Return the body of a request; None where the asker hung up before its end."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body
