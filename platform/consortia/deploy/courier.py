"""Talks to the SuperNode for the launcher: takes tasks, checks bundles, asks a fresh process, sends its answer.

It reads no rows and runs nothing that came from outside; see `consortia.deploy.launcher`.
"""

from __future__ import annotations

import json
import logging
import secrets
import time
from dataclasses import dataclass
from functools import lru_cache

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TASK_TOKEN_HEADER, TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from consortia.common.errors import RefusedError
from consortia.deploy.forks import Asker, ChildEndedError, Question
from consortia.deploy.health import alive
from consortia.messages import flower_pace
from consortia.messages.bundle import check_announced, check_bundle
from consortia.messages.envelope import Envelope, encode
from consortia.messages.flower import pack, unpack
from consortia.participant.agreement import check_signed
from consortia.participant.home import Home
from consortia.participant.node_config import home_of, log_at_home, source_of

log = logging.getLogger("consortia.courier")
at_home = logging.getLogger("consortia.participant")

_HEARTBEAT_SECONDS = 15.0  # Flower gives a task up after 60
_SLOWEST_POLL = 1.0
_RETRY_SECONDS = 1.0
_METHODS = frozenset({"/flwr.proto.Runtime/AcquireTask"})


class _Token:
    """Adds the token of the task at hand; one connection serves all tasks."""

    def __init__(self) -> None:
        self.now = ""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the header (Flower's interface)."""
        if self.now:
            context.request.headers[TASK_TOKEN_HEADER] = self.now
        return call_next(context)


@dataclass(frozen=True)
class SuperNode:
    """Where the participant's own SuperNode is, and what proves who asks.

    Attributes
    ----------
    address : str
        host:port of its Runtime API.
    authority : bytes or None
        Certificate that signs the SuperNode's; None means no TLS (loopback only).
    secret : bytes
        Shared with the SuperNode.
    """

    address: str
    authority: bytes | None
    secret: bytes

    def connect(self, token: _Token) -> RuntimeHttpClient:
        """Return a client that adds the version, the secret's signature and a task's token."""
        return RuntimeHttpClient.from_server_address(
            self.address,
            self.authority is None,
            self.authority,
            [
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(master_secret=self.secret, protected_methods=_METHODS),
                token,
            ],
        )


class Courier:
    """Takes the tasks of one SuperNode, one after the other.

    Parameters
    ----------
    supernode : SuperNode
    asker : Asker
        Gives each message its process.
    """

    def __init__(self, supernode: SuperNode, asker: Asker) -> None:
        self._token = _Token()
        self._client = supernode.connect(self._token)
        self._asker = asker

    def serve(self) -> int:
        """Take tasks for ever."""
        wanted = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
        idle_since = time.monotonic()
        while True:
            self._token.now = ""
            started = time.monotonic()
            try:
                found = self._client.AcquireTask(wanted)
                alive()
                if found.HasField("task") and found.token:
                    self._token.now = found.token
                    self._task()
                    idle_since = time.monotonic()
                    continue
            except httpx.HTTPError as error:
                # The SuperNode is not there, or restarts; its own log says why it refused. What httpx says is of the
                # connection (an expired certificate, say), never of a body.
                log.warning("the SuperNode does not answer (%s: %s); trying again", type(error).__name__, error)
                time.sleep(_RETRY_SECONDS)
                continue
            if time.monotonic() - started < flower_pace.HELD_SECONDS:  # a stock SuperNode answers at once
                waited = time.monotonic() - idle_since
                time.sleep(min(max(0.02, waited / 10), _SLOWEST_POLL))

    def _task(self) -> None:
        try:
            message, context, _, fab = pull_task_input(self._client)
        except Exception as error:  # noqa: BLE001 - whatever came is not a task; the next one may be
            log.error("a task without a readable input: %s", type(error).__name__)
            push_task_output(self._client, None, SubStatus.FAILED, "the task's input could not be pulled")
            return
        try:
            reply = self._reply(message, context, fab)
        except Exception as error:  # noqa: BLE001 - only a code may cross; the log says what happened, never with a value
            incident = secrets.token_hex(8)
            log.error("incident %s: no reply could be made: %s", incident, type(error).__name__)
            reply = _failed(_name_of(context), incident)
        push_message(self._client, Message(pack(reply), reply_to=message), context)
        push_task_output(self._client, None, SubStatus.COMPLETED, "")

    def _reply(self, message: Message, context: Context, fab: Fab) -> bytes:
        """Check, then ask a fresh process; every outcome is an envelope."""
        home = home_of(context)
        log_at_home(home)
        try:
            data = admit(message, context, fab, home)
        except RefusedError as error:
            at_home.warning("%s: refused: %s", home.participant, error)
            return encode(Envelope({"status": "REFUSED", "code": error.code, "participant": home.participant}))
        question = Question(_bundle_up(data, home, source_of(context)), message.metadata.ttl)
        try:
            return self._asker.ask(question, self._still_wanted, _HEARTBEAT_SECONDS)
        except ChildEndedError as error:
            incident = secrets.token_hex(8)
            at_home.error(
                "%s: incident %s: the process of this message ended without an answer (%s): killed, out of memory, or "
                "over its %.0f s",
                *(home.participant, incident, error, message.metadata.ttl),
            )
            return _failed(home.participant, incident)

    def _still_wanted(self) -> bool:
        try:
            answer = self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except httpx.TransportError:
            return True  # the SuperNode may come back; the kernel ends the child in any case
        alive()
        return bool(answer.success)


def admit(message: Message, context: Context, fab: Fab, home: Home) -> bytes:
    """Return the envelope of a message whose bundle and announced contract the owner accepts.

    Raises
    ------
    RefusedError
        With the code that crosses.
    """
    check_bundle_once(fab.content)
    policy = home.read_policy()
    check_signed(home, policy, check_announced(context.run_config, policy))
    try:
        return unpack(message.content)
    except ValueError as error:
        raise RefusedError("BAD_MESSAGE", str(error)) from None


@lru_cache(maxsize=8)
def check_bundle_once(content: bytes) -> None:
    """Check a bundle; one that passed is remembered, since every message of a run comes with it."""
    check_bundle(content)


def _name_of(context: Context) -> str:
    try:
        return home_of(context).participant
    except TypeError:
        return ""


def _failed(participant: str, incident: str = "launcher") -> bytes:
    header = {"status": "FAILED", "code": "PARTICIPANT_ERROR", "incident": incident}
    return encode(Envelope({**header, "participant": participant} if participant else header))


def _bundle_up(data: bytes, home: Home, source: str | None) -> bytes:
    """Put what a child needs in one piece: a line for the home, then the envelope."""
    where = {
        "folder": str(home.folder),
        "participant": home.participant,
        "simulation": home.simulation,
        "ledger": str(home.ledger_folder) if home.ledger_folder else None,
        "source": source,
    }
    return json.dumps(where).encode() + b"\n" + data
