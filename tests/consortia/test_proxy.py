"""The proxy and the door: a real haproxy with the configuration of the images, before a backend that counts bytes."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from proxy import MISSING, REASON, free_port, haproxy, in_front_of

from consortia.common.pki import make_authority, write_server
from consortia.planning.answer_size import largest_answer
from consortia.terms.scenario import load_scenario

pytestmark = pytest.mark.skipif(MISSING, reason=REASON)
MOST, RATE = 100_000, 30
PUSH, PULL = "/v1/fleet/push-object", "/v1/fleet/pull-messages"


@dataclass
class Backend:
    """Stands in for the SuperLink: answers 200, and keeps the head of each request and the size of its body."""

    keys: Path
    asked: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.keys / "server.pem", self.keys / "server.key")
        self.listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self.listener.accept()
            except ssl.SSLError:
                continue
            except OSError:
                return
            threading.Thread(target=self._connection, args=(link,), daemon=True).start()

    def _connection(self, link: ssl.SSLSocket) -> None:
        with contextlib.suppress(OSError), link, link.makefile("rb") as stream:
            while first := stream.readline().decode():
                lines = [line.decode() for line in iter(stream.readline, b"\r\n")]
                size = sum(int(line.partition(":")[2]) for line in lines if line.lower().startswith("content-length"))
                stream.read(size)
                self.asked.append((first.split(" ")[1], size))
                link.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


@dataclass
class World:
    """Proxy, door and backend."""

    backend: Backend
    proxy: int
    door: int
    keys: Path

    def ask(
        self,
        path: str = PULL,
        *,
        method: str = "POST",
        head: dict[str, str] | None = None,
        body: bytes = b"x",
        source: str = "127.0.0.2",
        port: int = 0,
    ) -> int:
        """Return the status of one request on a connection of its own; a head gives the body's length itself."""
        context = ssl.create_default_context(cafile=str(self.keys / "ca.crt"))
        link = http.client.HTTPSConnection(
            "127.0.0.1", port or self.proxy, timeout=30, context=context, source_address=(source, 0)
        )
        with contextlib.closing(link):
            link.putrequest(method, path)
            for name, value in ({"content-length": str(len(body))} | (signed() if head is None else head)).items():
                for each in value.split("\n"):
                    link.putheader(name, each)
            link.endheaders(body)
            return link.getresponse().status


def signed(**changes: str) -> dict[str, str]:
    """Return the head that a real SuperNode writes."""
    key = ec.generate_private_key(ec.SECP384R1())
    request = httpx.Request("POST", "https://proxy/", headers={"content-type": "application/protobuf"})
    context: Any = type("Context", (), {"request": request})
    NodeAuthHttpInterceptor(key, key.public_key()).intercept(context, lambda _: httpx.Response(200))
    head = {name: value for name, value in request.headers.items() if name.startswith(("flwr", "content-type"))}
    return head | {name.replace("_", "-"): value for name, value in changes.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("proxy")
    write_server(folder, make_authority("test", 2), ["superlink", "127.0.0.1"], 2)
    (folder / "proxy.pem").write_bytes((folder / "server.pem").read_bytes() + (folder / "server.key").read_bytes())
    backend, proxy, door = Backend(folder), free_port(), free_port()
    settings = {
        "CONSORTIA_MOST_BYTES": str(MOST),
        "CONSORTIA_MOST_RATE": str(RATE),
        "CONSORTIA_DOOR": "127.0.0.1/32",  # who calls the proxy from there must say for whom
    }
    ways = {"bind :8000": f"bind 127.0.0.1:{door}", "proxy:8000": f"127.0.0.1:{proxy}"}
    with (
        haproxy("haproxy.cfg", in_front_of(backend.port, folder, proxy), settings, folder),
        haproxy("door.cfg", ways, {}, folder),
    ):
        made = World(backend, proxy, door, folder)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                if made.ask("/health", method="GET", head={}, source="127.0.0.200", port=door) == 200:
                    break
            time.sleep(0.05)
        yield made
    backend.listener.close()


def test_a_supernodes_calls_pass_with_their_body(world: World) -> None:
    before = len(world.backend.asked)
    assert world.ask(PUSH, body=b"x" * MOST) == 200
    assert world.ask(PULL) == 200
    assert world.backend.asked[before:] == [(PUSH, MOST), (PULL, 1)]


@pytest.mark.parametrize(
    ("status", "path", "head"),
    [
        (413, PUSH, signed(content_length=str(MOST + 1))),
        (413, PULL, signed(content_length="65537")),  # only an object is large
        (400, PUSH, {**signed(), "transfer-encoding": "chunked"}),
        (400, PULL, signed(content_type="application/json")),
        (404, "/v1/fleet/register-node", None),
        (404, "/v1/fleet/../control/list-runs", None),
        (404, "/v1/control/list-runs", None),
        (404, "/v1/fleet/pull-messages/", None),
        (404, "//v1/fleet/pull-messages", None),
        (404, "/docs", None),
        *(
            (401, PULL, {name: value for name, value in signed().items() if name != gone})
            for gone in ("flwr-public-key", "flwr-timestamp", "flwr-signature")
        ),
        (401, PULL, signed(flwr_signature="short")),
        (401, PULL, signed(flwr_signature="A" * 5000)),
        (401, PULL, signed(flwr_public_key="A" * 300)),
        (401, PULL, signed(flwr_timestamp="yesterday")),
        (401, PULL, {**signed(), "flwr-timestamp": "\n".join(["2026-11-30T12:00:00+00:00"] * 2)}),
        (401, PULL, {"content-type": "application/protobuf"}),
    ],
)
def test_what_no_supernode_sends_is_refused_before_the_backend_sees_a_byte(
    world: World, status: int, path: str, head: dict[str, str] | None
) -> None:
    before = len(world.backend.asked)
    source = f"127.0.1.{abs(hash((status, path, str(head)))) % 250 + 1}"  # no case waits for another's rate
    assert world.ask(path, head=head, source=source, body=b"") == status
    assert world.backend.asked[before:] == []


def test_the_proxy_itself_says_that_it_is_up_and_what_time_it_is(world: World) -> None:
    before = len(world.backend.asked)
    context = ssl.create_default_context(cafile=str(world.keys / "ca.crt"))
    link = http.client.HTTPSConnection("127.0.0.1", world.proxy, context=context, source_address=("127.0.0.6", 0))
    with contextlib.closing(link):
        link.request("GET", "/health")
        answer = link.getresponse()
        assert answer.status == 200
        assert (answer.getheader("date") or "").endswith("GMT")  # preflight compares clocks
    assert world.backend.asked[before:] == []


@pytest.mark.parametrize("through_the_door", [False, True])
def test_one_sources_flood_is_its_own(world: World, through_the_door: bool) -> None:
    port, flooding, honest = (
        (world.door, "127.0.0.10", "127.0.0.11") if through_the_door else (0, "127.0.0.12", "127.0.0.13")
    )
    head = signed()
    seen: list[int] = []
    while 503 not in seen and len(seen) < 50 * RATE:
        seen.append(world.ask(head=head, source=flooding, port=port))
    assert set(seen) == {200, 503}
    before = len(world.backend.asked)
    assert world.ask(head=head, source=flooding, port=port) == 503
    assert len(world.backend.asked) == before
    assert world.ask(head=head, source=honest, port=port) == 200


def test_nobody_but_the_door_says_who_calls(world: World) -> None:
    with socket.create_connection(("127.0.0.1", world.proxy), 10, source_address=("127.0.0.14", 0)) as link:
        link.sendall(b"PROXY TCP4 127.0.0.99 127.0.0.1 1 2\r\n")
        context = ssl.create_default_context(cafile=str(world.keys / "ca.crt"))
        with pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(link, server_hostname="127.0.0.1")


def test_the_limit_follows_from_the_contract() -> None:
    limits = {name: largest_answer(load_scenario(name, settle=False)) for name in ("linear", "shared-cards")}
    assert limits["linear"] < 5 * 2**20
    terms = load_scenario("shared-cards", settle=False).contract.vertical
    assert terms is not None
    assert limits["shared-cards"] > 33 * terms.largest_set * len(terms.partners) + 4 * 2**20
