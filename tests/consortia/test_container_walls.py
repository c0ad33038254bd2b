"""A small federation of containers: what its launchers reach on the host, where its secrets are not, and its traces."""

from __future__ import annotations

import importlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation import ROOT, TAG, Federation, docker

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
faults, fault_containers = (importlib.import_module(name) for name in ("faults", "fault_containers"))

pytestmark = pytest.mark.containers

A, B = fault_containers.NAMES
TERMS = {"rounds": 2, "quorum": 1.0, "deadline_seconds": 120.0, "attempts": 3}
IMAGES = tuple(f"{name}:{TAG}" for name in ("consortia-participant", "consortia", "consortia-proxy"))


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    if reason := fault_containers.why_not():
        pytest.skip(reason)
    own = tmp_path_factory.mktemp("walls")
    with faults.world(own, (A, B), **TERMS) as made, fault_containers.deployed(own, made) as federation:
        done = federation.up()
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        yield federation


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that is open on every address of this host; who connects is let go."""
    with socket.create_server(("0.0.0.0", 0), backlog=64) as server:

        def answer() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _host(federation: Federation, service: str) -> list[str]:
    """Return the host's own addresses, and what would be its address on each of a service's networks."""
    own = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
    networks = federation.containers()[service]["NetworkSettings"]["Networks"].values()
    found = [re.sub(r"\d+$", lambda last: str(int(last[0]) // 16 * 16 + 1), each["IPAddress"]) for each in networks]
    return [address for address in [*own, *found] if ":" not in address]


@pytest.fixture
def rule(federation: Federation) -> Iterator[None]:
    """The page's rule, where the engine is older than its isolated networks."""
    version = docker("version", "--format", "{{.Server.Version}}").stdout
    if int(version.split(".")[0]) >= 28:
        yield
        return
    page = (ROOT / "docs" / "how_to" / "containers.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^iptables -I INPUT .*$", page, flags=re.MULTILINE)
    words = line.replace("10.213", federation.env["CONSORTIA_SUBNETS"]).split()
    subprocess.run(words, check=True)
    yield
    subprocess.run([word.replace("-I", "-D") for word in words], check=True)


def test_no_port_of_the_host_is_reached_from_a_participant(federation: Federation, listener: int, rule: None) -> None:
    for service in (f"{B}-app", B, "superexec", "superlink"):
        targets = [(address, listener) for address in _host(federation, service)]
        assert len(targets) > 2
        assert "open" not in federation.probe(service, targets, []).values(), service


def test_the_check_sees_a_host_that_has_an_address_on_a_network(federation: Federation, listener: int) -> None:
    """As every network was before the isolated mode: internal, and the host on it."""
    network = f"{federation.env['COMPOSE_PROJECT_NAME']}_open"
    assert docker("network", "create", "--internal", network).returncode == 0
    app = federation.containers()[f"{B}-app"]["Id"]
    try:
        (config,) = json.loads(docker("network", "inspect", network).stdout)[0]["IPAM"]["Config"]
        assert docker("network", "connect", network, app).returncode == 0
        target = (config["Gateway"], listener)
        assert federation.probe(f"{B}-app", [target], []) == {f"{target[0]}:{target[1]}": "open"}
    finally:
        docker("network", "disconnect", network, app)
        docker("network", "rm", network)


def _secrets(federation: Federation) -> dict[str, bytes]:
    """Return every secret that the federation made: what a file of its own holds."""
    found = {}
    for pattern in ("pki/*.key", "homes/*/split.key", "homes/*/identity.pem"):
        found |= {str(file): file.read_bytes() for file in federation.own.glob(pattern)}
    project = federation.env["COMPOSE_PROJECT_NAME"]
    volumes = docker("volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={project}").stdout
    for volume in volumes.split():
        place = Path(json.loads(docker("volume", "inspect", volume).stdout)[0]["Mountpoint"])
        secret = [*place.rglob("*.key"), *place.rglob("*.secret")]
        found |= {str(file): file.read_bytes() for file in secret}
    return found


def _forms(secret: bytes) -> list[bytes]:
    """Return what would betray a secret: a key's text by its lines, other bytes as they are, in hex and in base 64."""
    import base64

    if secret.startswith(b"-----BEGIN"):
        return [line for line in secret.splitlines() if len(line) > 40 and b"-----" not in line]
    return [secret, secret.hex().encode(), base64.b64encode(secret)[:40], base64.urlsafe_b64encode(secret)[:40]]


def test_no_secret_is_in_an_environment_a_log_or_a_record(federation: Federation) -> None:
    secrets = _secrets(federation)
    kinds = {re.sub(r".*[/.](\w+\.)?(key|secret)$", r"\2", name) for name in secrets}
    assert kinds == {"key", "secret"}
    assert len(secrets) >= 2 + 2 + 3 * 2  # two of pki, each home's split key, each participant's and the coordinator's
    seen = {"containers": json.dumps(federation.containers()).encode()}
    for service in federation.containers():
        seen[service] = federation.compose("logs", "--no-color", service).stdout.encode()
    for pattern in ("runs/*/*.json*", "homes/*/participant.log", "members/*"):
        seen |= {str(file): file.read_bytes() for file in federation.own.glob(pattern) if file.is_file()}
    seen |= {image: docker("image", "inspect", image).stdout.encode() for image in IMAGES}
    seen |= {f"{image}-": docker("history", "--no-trunc", image).stdout.encode() for image in IMAGES}
    assert sum(map(len, seen.values())) > 100_000
    leaks = [
        (name, where) for name, one in secrets.items() for f in _forms(one) for where, text in seen.items() if f in text
    ]
    assert leaks == []
    environments = [item["Config"]["Env"] for item in federation.containers().values()]
    named = {line.split("=")[0] for each in environments for line in each if re.search("TOKEN|SECRET|PASS|KEY", line)}
    assert named <= {"GPG_KEY", "CONSORTIA_DASHBOARD_TOKEN", "CONSORTIA_OIDC_SECRET_FILE"}


#: A private key's text with its content, and an address with a password in it.
_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{60}")


def _keys(*images: str) -> set[bytes]:
    """Return the beginning of every private key in any layer of some images."""
    found, last, size = set(), b"", 0
    with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saved:
        assert saved.stdout is not None
        while part := saved.stdout.read(2**24):
            window, size = last + part, size + len(part)
            found |= {match[0][:120] for match in _KEY.finditer(window)}
            last = window[-4096:]
    assert saved.returncode == 0
    assert size > 10**8
    return found


def test_no_key_is_in_a_layer(federation: Federation) -> None:
    """Every layer of every image, also what a later one took away; Debian's GnuTLS has published keys of its tests."""
    base = os.environ.get("CONSORTIA_BASE", "python:3.11-slim-bookworm")
    assert _keys(*IMAGES) - _keys(base) == set()


_COLLECTOR = """
import gzip, http.server
class Take(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in group.scope_spans:
                for span in scope.spans:
                    print("span", span.name, flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.HTTPServer(("", 4318), Take).serve_forever()
"""


def test_the_coordinators_image_sends_traces_and_signs_in_at_a_provider(federation: Federation) -> None:
    project = federation.env["COMPOSE_PROJECT_NAME"]
    words = ("--network", f"{project}_coordinator", "--network-alias", "collector", f"consortia:{TAG}")
    started = docker("run", "--detach", "--rm", "--name", f"{project}-collector", *words, "python", "-c", _COLLECTOR)
    assert started.returncode == 0, started.stderr
    try:
        federation.env |= {"CONSORTIA_TRACK": "otel", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
        done = federation.up()
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        spans = docker("logs", f"{project}-collector").stdout.split("span ")[1:]
        assert [spans.count(f"{name}\n") for name in ("run", "round", "message train")] == [1, 2, 4]
    finally:
        docker("rm", "--force", f"{project}-collector")
    look = (
        "from importlib.util import find_spec as f; print([bool(f(n)) for n in ('authlib', 'opentelemetry.exporter')])"
    )
    for service, has in (("superexec", True), (f"{A}-app", False)):
        told = federation.compose("exec", "-T", service, "python", "-c", look)
        assert told.stdout.strip() in ([str([has] * 2)] if has else ["[False, False]", ""]), told.stderr
    environment = {"CONSORTIA_OIDC_ISSUER": "https://192.0.2.1", "CONSORTIA_OIDC_CLIENT_ID": "fed"}
    environment |= {"COMPOSE_PROFILES": "dashboard", "CONSORTIA_OIDC_ADDRESS": "https://fed.example.org"}
    federation.env |= environment
    words = ("run", "--rm", "-T", "--no-deps", "dashboard")
    refused = federation.compose(*words)  # the provider is not there: the settings arrived, and the package is there
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "192.0.2.1" in refused.stderr
    assert "authlib" not in refused.stderr
