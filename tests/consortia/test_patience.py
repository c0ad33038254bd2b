"""A TLS handshake that timed out is tried again, a certificate that is wrong is not; against a real listener."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from flwr.proto.control_pb2 import StartRunResponse
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore.retry import http_retry
from flwr.supercore.retry.retry_invoker import RetryInvoker
from flwr.supercore.runtime import RuntimeHttpClient
from google.protobuf.message import Message

from consortia.common.errors import RunFailedError
from consortia.common.pki import make_authority, write_server
from consortia.deploy import coordinator_app, runner, superexec, supernode
from consortia.engines import control
from consortia.engines.control import Control
from consortia.messages import flower_facts, flower_pace, flower_patience
from consortia.terms.scenario import load_scenario

_SECONDS = 0.2
_TOKEN = AcquireTaskResponse(token="a token")


class _Busy:
    """Answers handshakes only after it has let a number of them run out; requests with one message, or never (None)."""

    def __init__(self, pki: Path, silent: int, answer: Message | None = _TOKEN) -> None:
        self.calls = 0
        self._silent = silent
        self._body = None if answer is None else answer.SerializeToString()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pki / "server.pem", pki / "server.key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"localhost:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with contextlib.ExitStack() as kept, contextlib.suppress(OSError):  # the listener's end
            self._answer(kept)

    def _answer(self, kept: contextlib.ExitStack) -> None:
        while True:
            raw = kept.enter_context(self._listener.accept()[0])
            self.calls += 1
            if self.calls <= self._silent:
                continue
            with contextlib.suppress(OSError), contextlib.ExitStack() as served:
                link = self._context.wrap_socket(raw, server_side=True)
                (served if self._body is not None else kept).enter_context(link)
                _take(link)
                if self._body is not None:
                    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(self._body)}\r\nconnection: close\r\n"
                    link.sendall(f"{head}content-type: application/protobuf\r\n\r\n".encode() + self._body)


def _take(link: ssl.SSLSocket) -> None:
    """Read a whole request: who answers before its end, and closes, takes the answer away."""
    data, wanted = b"", 0
    while not wanted or len(data) < wanted:
        if not (part := link.recv(2**16)):
            return
        data += part
        head, end, _ = data.lower().partition(b"\r\n\r\n")
        wanted = len(head) + 4 + int(head.partition(b"content-length: ")[2].split()[0]) if end else 0


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    write_server(tmp_path / "pki", make_authority("busy", 2), ("localhost",), 2)
    return tmp_path / "pki"


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Flower as it is, before and after; its waits between tries take no time."""
    monkeypatch.setattr(RetryInvoker, "should_giveup", None, raising=False)
    monkeypatch.delattr(RetryInvoker, "should_giveup")
    monkeypatch.setattr(http_retry, "exponential", lambda **_: iter([0.0] * 100))
    yield
    if hasattr(RetryInvoker, "should_giveup"):
        del RetryInvoker.should_giveup


def _client(address: str, authority: bytes) -> RuntimeHttpClient:
    invoker = http_retry.make_simple_http_retry_invoker()
    client = RuntimeHttpClient.from_server_address(address, False, authority, [], retry_invoker=invoker)
    client._client.timeout = httpx.Timeout(_SECONDS)
    return client


def test_stock_flower_gives_up_after_one_slow_handshake(pki: Path, stock: None) -> None:
    # Red when Flower tries again by itself: then `flower_patience` can go.
    busy = _Busy(pki, silent=2)
    with pytest.raises(httpx.ConnectTimeout, match="handshake"):
        _client(busy.address, (pki / "ca.crt").read_bytes()).AcquireTask(AcquireTaskRequest())
    busy.close()
    assert busy.calls == 1


def test_slow_handshakes_are_tried_again_also_by_a_client_that_exists(pki: Path, stock: None) -> None:
    busy = _Busy(pki, silent=2)
    client = _client(busy.address, (pki / "ca.crt").read_bytes())
    assert flower_patience.be_patient()
    assert client.AcquireTask(AcquireTaskRequest()).token == "a token"
    busy.close()
    assert busy.calls == 3


def test_a_certificate_of_somebody_else_is_refused_at_once(pki: Path, stock: None, tmp_path: Path) -> None:
    write_server(tmp_path / "other", make_authority("other", 2), ("localhost",), 2)
    busy = _Busy(pki, silent=0)
    assert flower_patience.be_patient()
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        _client(busy.address, (tmp_path / "other" / "ca.crt").read_bytes()).AcquireTask(AcquireTaskRequest())
    busy.close()
    assert busy.calls == 1


@pytest.fixture
def submit(pki: Path, tmp_path: Path) -> Callable[[_Busy], str]:
    """Submit a run to a listener, with time-outs of `_SECONDS`."""
    job = runner.make_job(load_scenario("linear"), tmp_path)

    def call(busy: _Busy) -> str:
        with contextlib.closing(Control(busy.address, pki / "ca.crt")) as link, contextlib.closing(busy):
            link._client._client.timeout = httpx.Timeout(_SECONDS)
            return link.submit(job)

    return call


def test_a_submission_tries_slow_handshakes_again(pki: Path, submit: Callable[[_Busy], str]) -> None:
    busy = _Busy(pki, silent=2, answer=StartRunResponse(run_id=7))
    assert submit(busy) == "7"
    assert busy.calls == 3


def test_a_submission_to_nobody_ends(
    pki: Path, submit: Callable[[_Busy], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CONNECT_SECONDS", 2 * _SECONDS)
    busy = _Busy(pki, silent=1000)
    with pytest.raises(RunFailedError, match="did not take the run: ConnectTimeout"):
        submit(busy)
    assert 1 < busy.calls < 10


def test_a_submission_that_may_have_arrived_is_not_sent_again(pki: Path, submit: Callable[[_Busy], str]) -> None:
    busy = _Busy(pki, silent=0, answer=None)
    with pytest.raises(RunFailedError, match="did not take the run: ReadTimeout"):
        submit(busy)
    assert busy.calls == 1


def test_another_flower_keeps_its_own_way(stock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(flower_facts.KNOWN, flower_patience.REPLACED[0], "0" * 16)
    assert not flower_patience.be_patient()
    assert not hasattr(RetryInvoker, "should_giveup")


def test_processes_that_talk_to_a_superlink_are_patient_before_they_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(flower_patience, "be_patient", lambda: said.append("patient"))
    monkeypatch.setattr(RuntimeHttpClient, "AcquireTask", RuntimeHttpClient.AcquireTask)
    monkeypatch.setattr(coordinator_app, "_take_run", lambda *_: "a token")
    monkeypatch.setenv(flower_pace.SWITCH, "1")
    where = ["--runtime-api-address", "a:1", "--root-certificates", "ca", "--superexec-auth-secret-file", "secret"]
    starts = ((superexec, "flower_superexec"), (supernode, "flower_supernode"), (coordinator_app, "flwr_serverapp"))
    for module, name in starts:
        monkeypatch.setattr(module, name, lambda name=name: said.append(name))
        monkeypatch.setattr("sys.argv", ["", *where])
        module.main()
    assert said == [word for _, name in starts for word in ("patient", name)]
