"""Keys at a real SuperLink: registered, found by preflight, rotated, revoked and never taken again."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from consortia.common.errors import RunFailedError
from consortia.common.pki import make_authority, write_node_key, write_server
from consortia.engines.control import flower_environment
from consortia.engines.flower import spawn
from consortia.engines.nodes import reconcile
from consortia.preflight.link import check_link

pytestmark = pytest.mark.end_to_end

_QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@contextmanager
def _superlink(tmp_path: Path, host: str, port: int, inside: tuple[str, ...] = ()) -> Iterator[tuple[str, Path]]:
    """Run a SuperLink for `host`, behind a command that puts it elsewhere."""
    write_server(tmp_path / "pki", make_authority("test", 2), ["localhost", host], 2)
    pki, authority = tmp_path / "pki", tmp_path / "pki" / "ca.crt"
    tls = ("--ssl-ca-certfile", authority, "--ssl-certfile", pki / "server.pem", "--ssl-keyfile", pki / "server.key")
    command = [
        *inside,
        sys.executable,
        "-P",
        "-m",
        "consortia.deploy.superlink",
        "--host",
        host,
        "--port",
        str(port),
        *map(str, tls),
    ]
    command += ["--enable-supernode-auth", "--isolation", "process", "--database", str(tmp_path / "state.db")]
    process = spawn(command, flower_environment(tmp_path), tmp_path, tmp_path / "superlink.log")
    trusting = f"ssl.create_default_context(cafile='{authority}')"
    ask = f"import ssl, urllib.request as u; u.urlopen('https://{host}:{port}/health', context={trusting})"
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and process.poll() is None:
            if not subprocess.run([*inside, sys.executable, "-c", ask], check=False, **_QUIET).returncode:
                break
            time.sleep(0.2)
        yield f"{host}:{port}", authority
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with _superlink(tmp_path, "127.0.0.1", port) as running:
        yield running


def test_a_key_is_registered_found_rotated_and_revoked(superlink: tuple[str, Path], tmp_path: Path) -> None:
    address, authority = superlink
    first, second = (write_node_key(tmp_path / name, "node.key") for name in ("first", "second"))

    def key_status(private: Path, says: str = "") -> str:
        findings = {finding.check: finding for finding in check_link(address, authority, private)}
        assert {check: found.status for check, found in findings.items() if check != "key"} == dict.fromkeys(
            ["address", "TLS chain", "name (SAN)", "expiry", "clock"], "ok"
        )
        assert says in findings["key"].found
        return findings["key"].status

    assert key_status(first[0], "the coordinator does not know this key") == "failed"
    assert reconcile(address, authority, {"bank-a": first[1]}) == ["registered bank-a"]
    assert reconcile(address, authority, {"bank-a": first[1]}) == []
    # A preflight says hello and goodbye: it can be repeated, and leaves the node free for its SuperNode.
    assert [key_status(first[0]) for _ in range(2)] == ["ok", "ok"]
    # A new key of the same participant takes the place of the old one.
    assert reconcile(address, authority, {"bank-a": second[1]}) == ["revoked bank-a", "registered bank-a"]
    assert (key_status(first[0]), key_status(second[0])) == ("failed", "ok")
    assert reconcile(address, authority, {}) == ["revoked bank-a"]
    assert key_status(second[0]) == "failed"
    with pytest.raises(RunFailedError, match="makes a new one"):
        reconcile(address, authority, {"bank-a": second[1]})


def test_a_strangers_body_does_not_reach_flowers_parser(superlink: tuple[str, Path], tmp_path: Path) -> None:
    """Flower's parser has its own words for a body that is no message; a stranger never hears them."""
    address, authority = superlink
    private, public = write_node_key(tmp_path / "node", "node.key")
    url, garbage = f"https://{address}/v1/fleet/push-object", b"\xff" * 64
    trusting = ssl.create_default_context(cafile=str(authority))
    key = serialization.load_ssh_private_key(private.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)

    def answer(*, sign: bool) -> tuple[int, str]:
        request = httpx.Request("POST", url, headers={"content-type": "application/protobuf"}, content=garbage)
        if sign:
            context: Any = type("Context", (), {"request": request})
            NodeAuthHttpInterceptor(key, key.public_key()).intercept(context, lambda _: httpx.Response(200))
        with httpx.Client(verify=trusting) as client:
            told = client.send(request)
        return told.status_code, told.text

    refused = (401, '{"detail":"wanted the signature of a registered node"}')
    assert [answer(sign=sign) for sign in (False, True)] == [refused] * 2
    reconcile(address, authority, {"bank-a": public})
    assert answer(sign=False) == refused
    status, text = answer(sign=True)
    assert (status, "protobuf" in text.lower()) == (400, True), text
    reconcile(address, authority, {})
    assert answer(sign=True) == refused


def test_a_superlink_that_is_not_there(tmp_path: Path) -> None:
    write_server(tmp_path, make_authority("test", 2), ["localhost"], 2)
    with pytest.raises(RunFailedError, match="did not answer"):
        reconcile("localhost:9", tmp_path / "ca.crt", {})


@pytest.fixture
def hosts() -> Iterator[dict[str, tuple[str, ...]]]:
    """Three hosts as network namespaces: a cable from the coordinator to each of two, and none between those."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces: wanted root and `ip`")
    tag = secrets.token_hex(2)
    names = {name: f"{name}-{tag}" for name in ("fed", "bank", "spy")}

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    try:
        for name in names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for number, other in enumerate(("bank", "spy")):
            here, there = f"f{other}{tag}", f"{other}{tag}"
            ip("link", "add", here, "netns", names["fed"], "type", "veth", "peer", "name", there, "netns", names[other])
            for end, space, last in ((here, "fed", 1), (there, other, 2)):
                ip("-n", names[space], "address", "add", f"10.213.{number}.{last}/30", "dev", end)
                ip("-n", names[space], "link", "set", end, "up")
        yield {name: ("ip", "netns", "exec", space) for name, space in names.items()}
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, **_QUIET)


def test_hosts_that_share_one_address(hosts: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    key = write_node_key(tmp_path / "bank", "node.key")[0]

    def preflight(host: str) -> dict[str, tuple[str, str]]:
        options = ("--superlink", address, "--root-certificates", str(authority), "--key", str(key), "--json")
        command = [*hosts[host], sys.executable, "-P", "-m", "consortia.cli", "preflight", "bank-a", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return {item["check"]: (item["status"], item["found"]) for item in json.loads(done.stdout)["findings"]}

    with _superlink(tmp_path, "10.213.0.1", 8443, hosts["fed"]) as (address, authority):
        code = "import sys; from pathlib import Path; from consortia.engines.nodes import reconcile as r; "
        code += "print(r(sys.argv[1], Path(sys.argv[2]), {'bank-a': Path(sys.argv[3])}))"
        command = [*hosts["fed"], sys.executable, "-P", "-c", code, address, str(authority), f"{key}.pub"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "registered bank-a" in done.stdout, done.stderr
        assert {status for status, _ in preflight("bank").values()} == {"ok"}
        # The other host has a cable to the coordinator's machine, on another network than the coordinator's address.
        assert preflight("spy")["address"][0] == "failed"
