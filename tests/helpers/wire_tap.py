"""A tap between SuperNodes and the SuperLink: each participant's TLS ends here, is written down and goes on."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from consortia.engines.base import Job
from consortia.engines.flower import Federation

#: What a SuperNode may ask, and what it and its answer are made of.
REQUESTS: dict[str, tuple[Any, Any]] = {
    "activate-node": (fleet_pb2.ActivateNodeRequest, fleet_pb2.ActivateNodeResponse),
    "deactivate-node": (fleet_pb2.DeactivateNodeRequest, fleet_pb2.DeactivateNodeResponse),
    "send-node-heartbeat": (heartbeat_pb2.SendNodeHeartbeatRequest, heartbeat_pb2.SendNodeHeartbeatResponse),
    "pull-messages": (fleet_pb2.PullMessagesRequest, fleet_pb2.PullMessagesResponse),
    "push-messages": (fleet_pb2.PushMessagesRequest, fleet_pb2.PushMessagesResponse),
    "get-run": (run_pb2.GetRunRequest, run_pb2.GetRunResponse),
    "get-fab": (fab_pb2.GetFabRequest, fab_pb2.GetFabResponse),
    "pull-object": (message_pb2.PullObjectRequest, message_pb2.PullObjectResponse),
    "push-object": (message_pb2.PushObjectRequest, message_pb2.PushObjectResponse),
    "confirm-message-received": (
        message_pb2.ConfirmMessageReceivedRequest,
        message_pb2.ConfirmMessageReceivedResponse,
    ),
}


@dataclass(frozen=True)
class Call:
    """One HTTP request as it was on the wire.

    The run's end may cut the last one of a connection: then `answer` is empty, and `body` is None if none of it left.
    """

    path: str
    headers: tuple[tuple[str, str], ...]
    message: Message
    answer: Message
    body: bytes | None


@dataclass
class Tap:
    """Both directions of every connection of one participant, in clear."""

    streams: list[tuple[bytearray, bytearray]] = field(default_factory=list)

    def sent(self) -> bytes:
        """Everything that left, in no other form than it left."""
        return b"".join(bytes(out) for out, _ in self.streams)

    def calls(self) -> list[Call]:
        """Return every request; ValueError for a byte that is not part of one."""
        return [call for out, back in self.streams for call in _calls(bytes(out), bytes(back))]


def _calls(out: bytes, back: bytes) -> Iterator[Call]:
    answers = list(_messages(back))
    for number, (first, headers, body) in enumerate(_messages(out)):
        method, path, version = first.split(" ")
        if method != "POST" or version != "HTTP/1.1" or not path.startswith("/v1/fleet/"):
            raise ValueError(f"a request that no SuperNode makes: {first}")
        name = path.removeprefix("/v1/fleet/")
        asked, answered = (kind() for kind in REQUESTS[name])
        asked.ParseFromString(body or b"")
        if asked.SerializeToString(deterministic=True) != (body or b""):
            raise ValueError(f"{name}: bytes beside its fields")
        if number < len(answers) and answers[number][0].split(" ")[1] == "200":
            answered.ParseFromString(answers[number][2] or b"")
        yield Call(name, tuple(headers.items()), asked, answered, body)


def _messages(data: bytes) -> Iterator[tuple[str, dict[str, str], bytes | None]]:
    """Split one direction of an HTTP/1.1 connection: first line, headers (no name twice), body (None: cut there)."""
    while data:
        head, found, data = data.partition(b"\r\n\r\n")
        if not found:
            raise ValueError("half a head")
        first, *lines = head.decode("ascii").split("\r\n")
        pairs = [(line.partition(":")[0].lower(), line.partition(":")[2].strip()) for line in lines]
        headers = dict(pairs)
        if len(headers) != len(pairs) or "transfer-encoding" in headers:
            raise ValueError("headers: a name twice, or a body of unknown length")
        size = int(headers.get("content-length", "0"))
        if 0 < len(data) < size:
            raise ValueError("half a body")
        yield first, headers, data[:size] if data or not size else None
        data = data[size:]


def fields_of(message: Message) -> Iterator[tuple[str, Any]]:
    """Yield every field that is set, nested ones too, as (Type.name, value); ValueError for an unknown one."""
    if len(UnknownFieldSet(message)):
        raise ValueError(f"{message.DESCRIPTOR.name}: a field that this version of Flower does not know")
    for descriptor, value in message.ListFields():
        name = f"{message.DESCRIPTOR.name}.{descriptor.name}"
        for item in value if descriptor.is_repeated else [value]:
            if isinstance(item, Message):
                yield from fields_of(item)
            else:
                yield name, item


class Relay:
    """Ends the TLS of one participant with the run's own certificate and goes on to the SuperLink."""

    def __init__(self, pki: Path, superlink: int) -> None:
        self.tap = Tap()
        self._superlink = superlink
        self._server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.load_cert_chain(pki / "server.pem", pki / "server.key")
        self._client = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Take no more connections; wait for those whose ends are gone."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(10)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = self._listener.accept()
                thread = threading.Thread(target=self._connection, args=(raw,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _connection(self, raw: socket.socket) -> None:
        with contextlib.ExitStack() as ends, contextlib.suppress(OSError):
            ends.callback(raw.close)
            near = ends.enter_context(self._server.wrap_socket(raw, server_side=True))
            onward = socket.create_connection(("127.0.0.1", self._superlink))
            ends.callback(onward.close)
            far = ends.enter_context(self._client.wrap_socket(onward, server_hostname="localhost"))
            streams = (bytearray(), bytearray())
            self.tap.streams.append(streams)
            _relay(near, far, streams)


def _relay(near: ssl.SSLSocket, far: ssl.SSLSocket, streams: tuple[bytearray, bytearray]) -> None:
    """Copy both ways until one end closes; in one thread, for a TLS connection is not for two."""
    other = {near: (far, streams[0]), far: (near, streams[1])}
    while True:
        ready = [end for end in other if end.pending()] or select.select(list(other), [], [])[0]
        for source in ready:
            target, seen = other[source]
            source.setblocking(False)
            try:
                part = source.recv(2**16)
            except ssl.SSLWantReadError:  # a record of TLS itself, or half of one
                continue
            finally:
                source.setblocking(True)
            if not part:
                return
            seen += part
            target.sendall(part)


_BROKEN_LAUNCHER = """
import sys
from consortia.deploy import launcher
honest = launcher.warm
def warm():
    honest()
    exec({code!r}, {{}})
launcher.warm = warm
sys.exit(launcher.main(sys.argv[1:]))
"""


class TappedFederation(Federation):
    """The Flower engine with a tap at each SuperNode, and with launchers that a test may have broken.

    Parameters
    ----------
    broken : dict of str to str
        Python code that a participant's launcher runs once it has imported everything.

    Attributes
    ----------
    taps : dict of str to Tap
        By participant.
    """

    def __init__(self, job: Job, broken: Mapping[str, str]) -> None:
        super().__init__(job)
        self.broken = broken
        self.taps: dict[str, Tap] = {}
        self.relays: list[Relay] = []

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        for relay in self.relays:
            relay.close()

    def _start_participant(self, name: str, key: Path) -> None:
        relay = Relay(self.folder / "pki", self.port)
        self.relays.append(relay)
        self.taps[name] = relay.tap
        superlink, self.port = self.port, relay.port
        try:
            super()._start_participant(name, key)
        finally:
            self.port = superlink

    def _spawn(self, who: str, command: str, *arguments: str) -> None:
        code = self.broken.get(who.removesuffix("-app")) if who.endswith("-app") else None
        if code is not None and "-m" in arguments[:2]:  # not when it is started again
            start, rest = arguments[:3], arguments[3:]
            assert start == ("-P", "-m", "consortia.deploy.launcher")
            arguments = ("-P", "-c", _BROKEN_LAUNCHER.format(code=code), *rest)
        super()._spawn(who, command, *arguments)
