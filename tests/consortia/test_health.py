"""A container's health check tells whether its loop gets on; commands find the home that a container has."""

from __future__ import annotations

import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
import yaml
from command_line import APP
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore.runtime import RuntimeHttpClient
from typer.testing import CliRunner

from consortia.common import disk
from consortia.common.errors import InputError
from consortia.common.pki import make_authority, write_server
from consortia.deploy import health, superexec
from consortia.deploy.compose import compose_text
from consortia.participant.home import Home
from consortia.terms.scenario import load_scenario

ROOT = Path(__file__).resolve().parents[2]


def _check(**settings: str) -> int:
    """Return the status of the script that the images run, in the shell of this host."""
    command = ["sh", str(ROOT / "platform" / "health.sh")]
    return subprocess.run(command, env={"PATH": os.defpath, **settings}, capture_output=True, check=False).returncode


def test_a_loop_that_stands_still_is_unhealthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a sign of life"
    monkeypatch.setenv(health.ALIVE, str(file))
    assert _check(CONSORTIA_ALIVE=str(file)) == 1
    health.alive()
    assert _check(CONSORTIA_ALIVE=str(file)) == 0
    for seconds, status in ((50, 0), (61, 1)):
        long_ago = time.time() - seconds
        os.utime(file, (long_ago, long_ago))
        assert _check(CONSORTIA_ALIVE=str(file)) == status


def test_nothing_to_ask_is_healthy_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(health.ALIVE, raising=False)
    monkeypatch.chdir(tmp_path)
    health.alive()
    assert _check() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A service behind TLS whose /health answers 200 and whose other paths answer 503; its folder and its port."""
    folder = tmp_path_factory.mktemp("service")
    write_server(folder, make_authority("ours", 1), ["localhost"], 1)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        yield folder, server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("url", "authority", "status"),
    [
        ("https://localhost:PORT/health", "ca.crt", 0),
        ("https://localhost:PORT/else", "ca.crt", 1),  # answers 503
        ("https://127.0.0.1:PORT/health", "ca.crt", 1),  # not the certificate's name
        ("https://localhost:PORT/health", "other.crt", 1),
        ("https://localhost:1/health", "ca.crt", 1),
        ("http://localhost:PORT/health", "ca.crt", 2),
        ("https://localhost:PORT/health", "nowhere.crt", 2),
    ],
)
def test_a_service_is_healthy_that_answers_200_under_its_own_certificate(
    service: tuple[Path, int], url: str, authority: str, status: int
) -> None:
    folder, port = service
    (folder / "other.crt").write_bytes(make_authority("other", 1).certificate.public_bytes(Encoding.PEM))
    asked = {"CONSORTIA_HEALTH_URL": url.replace("PORT", str(port)), "CONSORTIA_HEALTH_CA": str(folder / authority)}
    assert _check(**asked) == status
    assert _check(**asked, CONSORTIA_ALIVE=str(folder / "nowhere")) == 1


def test_super_exec_is_alive_when_the_superlink_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the SuperLink's answer stands its absence, and then an empty answer."""
    file = tmp_path / "alive"
    monkeypatch.setenv(health.ALIVE, str(file))
    client, request = object.__new__(RuntimeHttpClient), AcquireTaskRequest()

    def silent(*_: object) -> None:
        raise httpx.ConnectError("nobody")

    monkeypatch.setattr(superexec, "_ask", silent)
    with pytest.raises(httpx.ConnectError):
        superexec._ask_and_tell(client, request)
    assert not file.exists()
    monkeypatch.setattr(superexec, "_ask", lambda *_: AcquireTaskResponse())
    superexec._ask_and_tell(client, request)
    assert file.exists()


def test_no_health_check_starts_python() -> None:
    checks = [
        line
        for line in (ROOT / "platform" / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if "CMD [" in line and "HEALTH" in line
    ]
    assert len(checks) == 2
    assert not any("python" in line for line in checks)


def test_every_service_that_stays_up_has_a_health_check() -> None:
    plan = yaml.load(compose_text(load_scenario("hospitals")), Loader=yaml.CSafeLoader)
    for name, service in plan["services"].items():
        image = service["image"].partition(":")[0]
        assert (image == "consortia-proxy") == (name in {"proxy", "door"}), name
        asks = {"CONSORTIA_ALIVE", "CONSORTIA_HEALTH_URL"} & set(service.get("environment", {}))
        if image != "consortia-proxy" and (service.get("restart") or name == "runner"):
            assert asks or "test" in service["healthcheck"], name
            assert service.get("healthcheck") != {"disable": True}, name


def test_a_participants_commands_need_no_folder_in_its_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = yaml.load(compose_text(load_scenario("hospitals")), Loader=yaml.CSafeLoader)
    app = plan["services"]["va-app"]
    assert any(mount.endswith(f":{app['environment']['CONSORTIA_HOME']}/va") for mount in app["volumes"])
    monkeypatch.setenv("CONSORTIA_HOME", str(tmp_path))
    home = Home(tmp_path / "va", "va")
    code, said = _call("home", "log", "va")
    assert (code, "wanted the home of va" in said) == (2, True)
    home.create()
    assert _call("home", "log", "va") == (0, "no refusal and no incident")
    code, said = _call("receipt", "va")
    assert (code, f"{home.folder}: wanted the folder of a participant" in said) == (2, True)


def _call(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(APP, words, env={"COLUMNS": "400"})
    return done.exit_code, " ".join(done.output.split())


def test_a_mounted_policy_says_where_to_change_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> None:
        raise OSError(16, "Device or resource busy")

    home = Home(tmp_path, "va")
    monkeypatch.setattr(disk.Path, "replace", busy)
    with pytest.raises(InputError, match="mounted read-only; change the file on the host"):
        home.write_policy("x = 1\n")
    assert list(tmp_path.iterdir()) == []
