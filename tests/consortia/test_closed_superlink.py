"""A stranger's request ends before Flower reads its body: the layer by itself, and a run behind proxy and layer."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from own_homes import own_homes
from proxy import MISSING, REASON, free_port, haproxy, in_front_of

from consortia.deploy.superlink import KnownNodesOnly
from consortia.engines.base import Job
from consortia.engines.flower import Federation
from consortia.engines.options import Options
from consortia.engines.runner import prepare

KEY, OTHER = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
Head = dict[str, str]


def _pem(key: Any) -> bytes:
    encoded: bytes = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _flowers(key: ec.EllipticCurvePrivateKey) -> Head:
    """Return the head that Flower's own SuperNode writes."""
    request = httpx.Request("POST", "https://superlink/")
    context: Any = type("Context", (), {"request": request})
    NodeAuthHttpInterceptor(key, key.public_key()).intercept(context, lambda _: httpx.Response(200))
    return {name: value for name, value in request.headers.items() if name.startswith("flwr")}


def _signed(told: str, *, key: ec.EllipticCurvePrivateKey = KEY, shown: bytes = b"") -> Head:
    signature = key.sign(told.encode(), ec.ECDSA(hashes.SHA256()))
    return {
        "flwr-public-key": b64encode(shown or public_key_to_bytes(KEY.public_key())).decode(),
        "flwr-timestamp": told,
        "flwr-signature": b64encode(signature).decode(),
    }


def _ago(seconds: float) -> str:
    return (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)).isoformat()


class _Nodes:
    """What the layer asks of Flower's LinkState: KEY is registered, and so is a key of another kind."""

    rsa_key = rsa.generate_private_key(65537, 2048)
    known = (_pem(KEY), _pem(rsa_key))

    def get_node_id_by_public_key(self, key: bytes) -> int | None:
        return 7 if key in self.known else None


def _status(head: Head, path: str = "/v1/fleet/push-object") -> tuple[int, bool]:
    """Return the status of a request, and whether its body was read."""
    read: list[bool] = []
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        read.append(True)
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def flower(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    app = type("App", (), {"state": type("State", (), {"linkstate_factory": type("F", (), {"state": _Nodes})})})
    headers = [(name.encode(), value.encode()) for name, value in head.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "app": app}
    asyncio.run(KnownNodesOnly(flower)(scope, receive, send))
    return sent[0]["status"], bool(read)


@pytest.mark.parametrize(
    "head",
    [
        {},
        _flowers(OTHER),  # signed as it should be, by a key that nobody registered
        {**_flowers(KEY), "flwr-signature": _flowers(OTHER)["flwr-signature"]},
        _signed(_ago(400)),
        _signed(_ago(-86_400)),  # made when tests are collected, which may be minutes ago
        _signed("yesterday"),
        _signed(_ago(0).replace("+00:00", "")),  # no zone
        _signed(_ago(0), shown=_Nodes.known[1]),
        {**_flowers(KEY), "flwr-public-key": "!"},
        {**_flowers(KEY), "flwr-signature": ""},
        *({name: value for name, value in _flowers(KEY).items() if name != gone} for gone in _flowers(KEY)),
    ],
)
def test_a_strangers_body_is_never_read(head: Head) -> None:
    assert _status(head) == (401, False)


def test_the_hello_of_an_unknown_key_gets_flowers_own_answer() -> None:
    status, read = _status(_flowers(OTHER), "/v1/fleet/activate-node")
    assert status == API_ERROR_MAP[ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED].http_status_code != 401
    assert not read
    assert _status({}, "/v1/fleet/activate-node") == (401, False)


def test_a_registered_nodes_request_passes() -> None:
    assert _status(_flowers(KEY)) == (200, True)
    assert _status(_signed(_ago(200))) == (200, True)
    assert _status({}, "/health") == (200, True)


class Proxied(Federation):
    """The Flower engine with the containers' SuperLink, and with the proxy between it and the participants."""

    def __init__(self, job: Job, ends: contextlib.ExitStack) -> None:
        super().__init__(job)
        self.ends = ends
        self.proxy = 0

    def _spawn(self, who: str, command: str, *arguments: str) -> None:
        if who == "superlink":
            command, arguments = sys.executable, ("-P", "-m", "consortia.deploy.superlink", *arguments)
        super()._spawn(who, command, *arguments)

    def _start_participant(self, name: str, key: Path) -> None:
        if not self.proxy:
            pki = self.folder / "pki"
            (pki / "proxy.pem").write_bytes((pki / "server.pem").read_bytes() + (pki / "server.key").read_bytes())
            self.proxy = free_port()
            changes = in_front_of(self.port, pki, self.proxy)
            changes |= {"verifyhost superlink": "verifyhost localhost", "str(superlink)": "str(localhost)"}
            self.ends.enter_context(haproxy("haproxy.cfg", changes, self.settings(), self.folder))
        superlink, self.port = self.port, self.proxy
        try:
            super()._start_participant(name, key)
        finally:
            self.port = superlink

    def settings(self) -> dict[str, str]:
        """Return the variables of the proxy as the compose file gives them."""
        from consortia.planning.answer_size import largest_answer

        return {"CONSORTIA_MOST_BYTES": str(largest_answer(self.job.scenario))}


@pytest.mark.end_to_end
@pytest.mark.skipif(MISSING, reason=REASON)
@pytest.mark.parametrize("scenario", ["linear", "secure-banks", "shared-customers"])
def test_a_run_goes_through_proxy_and_layer(scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_homes(scenario, tmp_path / "homes", monkeypatch)
    job = prepare(Options(scenario=scenario, engine="flower", out=tmp_path / "runs"))
    with contextlib.ExitStack() as ends, Proxied(job, ends) as federation:
        federation.start()
        federation.submit()
        federation.wait()
        log = (federation.folder / "haproxy.cfg.log").read_text()
    assert " 401 " not in log, log
    assert "<NOSRV>" not in log  # nothing was refused
