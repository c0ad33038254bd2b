"""Each broken link between a participant and a federation is named, by itself, with what to do."""

from __future__ import annotations

import datetime
import http.server
import json
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
import tomli_w
from command_line import APP
from typer.testing import CliRunner

from consortia.common import pki
from consortia.deploy.homes import make_home, owned_policy
from consortia.participant.home import Home
from consortia.preflight.build import check_build
from consortia.preflight.findings import Finding
from consortia.preflight.home import check_home
from consortia.preflight.link import check_link
from consortia.terms.scenario import Scenario, load_scenario
from privacy.ledger import Budget, Ledger, RunPlan


class _Handler(http.server.BaseHTTPRequestHandler):
    """What a proxy without a SuperLink behind it would answer."""

    ahead = 0.0

    def do_GET(self) -> None:
        self.send_response_only(200)
        self.send_header("Date", formatdate(datetime.datetime.now().timestamp() + self.ahead, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_error(404)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def _server(folder: Path, hosts: list[str], *, days: int = 90, ahead: float = 0.0, start: int = 0) -> Iterator[int]:
    """Serve TLS on loopback under an authority of its own, whose ca.crt lies in `folder`."""
    patch = pytest.MonkeyPatch()
    patch.setattr(pki, "_CLOCK_SKEW", datetime.timedelta(days=-start if start else 200))
    try:
        pki.write_server(folder, pki.make_authority("test", 400), hosts, days)
    finally:
        patch.undo()
    handler = type("Handler", (_Handler,), {"ahead": ahead})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] - a refused handshake is what is tested
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _broken(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: f"{finding.found} -> {finding.todo}" for finding in findings if finding.status == "failed"}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return pki.write_node_key(tmp_path / "node", "node.key")[0]


def test_the_address(tmp_path: Path, key: Path) -> None:
    def broken(address: str) -> str:
        findings = check_link(address, tmp_path / "ca.crt", key)
        assert [finding.status for finding in findings] == ["failed", *["skipped"] * 5]
        return _broken(findings)["address"]

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, nobody listens
        assert "refuses port" in broken(f"127.0.0.1:{taken.getsockname()[1]}")
    assert "no host is called" in broken("nowhere.invalid:8443")
    assert "wanted HOST:PORT" in broken("fed.example.org")


def test_an_authority_that_is_not_the_kits(tmp_path: Path, key: Path) -> None:
    pki.write_server(tmp_path / "other", pki.make_authority("other", 9), ["localhost"], 9)
    with _server(tmp_path / "own", ["localhost"]) as port:
        broken = _broken(check_link(f"localhost:{port}", tmp_path / "other" / "ca.crt", key))
        assert list(broken) == ["TLS chain"]
        assert "CN=test" in broken["TLS chain"]
        assert "never go on without" in broken["TLS chain"]
        (tmp_path / "empty.crt").write_text("")
        assert (
            "take ca.crt from the kit"
            in _broken(check_link(f"localhost:{port}", tmp_path / "empty.crt", key))["TLS chain"]
        )


def test_a_port_without_tls(tmp_path: Path, key: Path) -> None:
    pki.write_server(tmp_path, pki.make_authority("other", 9), ["localhost"], 9)
    with socket.socket() as plain:
        plain.bind(("127.0.0.1", 0))
        plain.listen()
        accepted = threading.Thread(target=lambda: [plain.accept()[0].close() for _ in range(2)])
        accepted.start()
        broken = _broken(check_link(f"127.0.0.1:{plain.getsockname()[1]}", tmp_path / "ca.crt", key))
        accepted.join()
    assert "no TLS at" in broken["TLS chain"]


def test_a_name_that_the_certificate_is_not_for(tmp_path: Path, key: Path) -> None:
    with _server(tmp_path, ["fed.example.org"]) as port:
        broken = _broken(check_link(f"127.0.0.1:{port}", tmp_path / "ca.crt", key))
    assert list(broken) == ["name (SAN)"]
    assert "for fed.example.org, not for 127.0.0.1" in broken["name (SAN)"]
    assert f"make renew CONSORTIA_ADDRESS=127.0.0.1:{port}" in broken["name (SAN)"]


@pytest.mark.parametrize(("days", "start", "says"), [(-1, 0, "ended on"), (90, 5, "starts at")])
def test_a_certificate_out_of_its_time(tmp_path: Path, key: Path, days: int, start: int, says: str) -> None:
    with _server(tmp_path, ["localhost"], days=days, start=start) as port:
        broken = _broken(check_link(f"localhost:{port}", tmp_path / "ca.crt", key))
    assert list(broken) == ["expiry"]
    assert says in broken["expiry"]
    assert "clock" in broken["expiry"]


# Flower refuses a signature from its own future (5 s of drift allowed) or one older than 300 s.
@pytest.mark.parametrize(("ahead", "is_broken"), [(-10.0, True), (320.0, True), (0.0, False), (120.0, False)])
def test_a_clock(tmp_path: Path, key: Path, ahead: float, is_broken: bool) -> None:
    with _server(tmp_path, ["localhost"], ahead=ahead) as port:
        broken = _broken(check_link(f"localhost:{port}", tmp_path / "ca.crt", key))
    assert ("clock" in broken) == is_broken
    assert "no fleet API" in broken["key"]  # nobody is behind this server


def test_a_key_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "node.key").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nno\n")
    with _server(tmp_path / "own", ["localhost"]) as port:
        for file, says in (
            ("node.key", "not a key in OpenSSH format"),
            ("nowhere.key", "docker compose run --rm keys"),
        ):
            broken = _broken(check_link(f"localhost:{port}", tmp_path / "own" / "ca.crt", tmp_path / file))
            assert list(broken) == ["key"]
            assert says in broken["key"]


# At home.


def _ready(tmp_path: Path) -> tuple[Home, Scenario]:
    scenario = load_scenario("cross-industry-network")
    home = Home(tmp_path / "hospital-a", "hospital-a")
    make_home(home, owned_policy("cross-industry-network", scenario, "hospital-a"), "test")
    return home, scenario


def _change(home: Home, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    import tomllib

    data = tomllib.loads(home.policy.read_text(encoding="utf-8"))
    change(data)
    home.policy.write_text(tomli_w.dumps(data), encoding="utf-8")


def test_a_home_in_order_says_what_noise_the_plan_would_give(tmp_path: Path) -> None:
    home, scenario = _ready(tmp_path)
    findings = check_home(home, scenario)
    assert _broken(findings) == {}
    said = {finding.check: finding.found for finding in findings}
    assert "303 synthetic rows" in said["data"]
    # All three of epsilon 1 (proposal, run allowance), 4 of the lifetime; the unit and the horizon stand beside them.
    assert said["budget"] == (
        "ε = 1 at δ = 1e-05 for this run (unit: record, add/remove one); ε = 4 left of the lifetime's 4"
    )
    # sigma of 20 full-batch steps at epsilon 1, delta 1e-5: sqrt(20) x 3.73 (the exact Gaussian, one step) = 16.7.
    assert "σ = 16.7 times the clip, for 20 steps at sampling rate 1" in said["noise"]
    assert Ledger.open(home.ledger, "hospital-a").runs() == []
    assert {path.name for path in home.folder.iterdir()} <= {  # no split pinned, no receipt
        "ledger.db", "ledger.db-shm", "ledger.db-wal", "policy.toml", "split.key",
    }  # fmt: skip


def _set(*path: str, value: object) -> Callable[[dict], None]:  # type: ignore[type-arg]
    def change(data: dict) -> None:  # type: ignore[type-arg]
        for part in path[:-1]:
            data = data[part]
        data[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "check", "says"),
    [
        (_set("participant", value="hospital-b"), "policy", "belongs to hospital-b"),
        (_set("demo", value=True), "policy", "demo = true"),
        (_set("budget", "run", "epsilon", value="FILL IN"), "policy", "budget.run.epsilon"),
        (_set("allow", "contracts", value=[]), "contract", "allow.contracts: wanted sha256:"),
        (_set("allow", "releases", value=["metrics"]), "contract", "allow.releases"),
        (_set("dataset", "heart", "source", value="csv:/nowhere.csv"), "data", "correct dataset.heart.source"),
        (_set("dataset", "heart", "source", value="FILL IN"), "data", "wanted one of csv:"),
        (_set("dataset", "heart", "unit", value="age"), "units", 'dataset.heart.unit to "record"'),
        (_set("dataset", "heart", "declared_units", value=100), "units", "declare about 300"),
    ],
)
def test_each_broken_link_at_home_is_named(
    tmp_path: Path,
    change: Callable[[dict], None],
    check: str,
    says: str,  # type: ignore[type-arg]
) -> None:
    home, scenario = _ready(tmp_path)
    _change(home, change)
    broken = _broken(check_home(home, scenario))
    assert list(broken) == [check]
    assert says in broken[check]


def test_rows_that_do_not_fit_the_schema(tmp_path: Path) -> None:
    home, scenario = _ready(tmp_path)
    rows = tmp_path / "rows.csv"
    rows.write_text("age,colour\n61,SECRET\n")
    _change(home, _set("dataset", "heart", "source", value=f"csv:{rows}"))
    broken = _broken(check_home(home, scenario))
    assert list(broken) == ["schema"]
    assert "SECRET" not in str(broken)


def test_a_ledger_that_is_missing_and_a_lifetime_that_is_spent(tmp_path: Path) -> None:
    home, scenario = _ready(tmp_path)
    plan = RunPlan(
        run_id="earlier", dataset="heart", contract_sha256=scenario.contract.sha256(), unit="record",
        declared_units=182, allowance=Budget(4.0, 1e-5), noise_multiplier=5.0, sampling_rate=1.0, steps_per_round=1,
        rounds=20,
        clip=0.5, non_private=False,
    )  # fmt: skip
    with_run = Ledger.open(home.ledger, "hospital-a")
    with_run.open_run(plan, Budget(4.0, 4e-5))
    with_run.reserve("earlier", 1, "key", (plan.round_event(),), lifetime=Budget(4.0, 4e-5))
    with_run.close()
    broken = _broken(check_home(home, scenario))
    assert list(broken) == ["budget"]
    assert "ε = 0" in broken["budget"]
    assert "left of the lifetime's ε = 4 (unit: record, add/remove one)" in broken["budget"]
    home.ledger.unlink()
    broken = _broken(check_home(home, scenario))
    assert list(broken) == ["ledger"]
    assert "never copy an old one back" in broken["ledger"]


def test_a_participant_with_another_build_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consortia.common.environment.build", lambda: {"build": "a" * 12})
    (same,) = check_build("a" * 12)
    assert same.status == "ok"
    (other,) = check_build("b" * 12)
    assert str(other).startswith(f"build: failed: this image is build {'a' * 12}, the coordinator's is {'b' * 12} -> ")
    assert f"consortia-participant:{'b' * 12}" in other.todo
    monkeypatch.setenv("CONSORTIA_WANTED_BUILD", "b" * 12)
    call = ["preflight", "hospital-a", "--superlink", "127.0.0.1", "--root-certificates", "ca.crt", "--key", "none"]
    done = CliRunner().invoke(APP, [*call, "--json"])
    assert [line["check"] for line in json.loads(done.stdout)["findings"]][:2] == ["build", "address"]


def test_the_command(tmp_path: Path) -> None:
    home, _ = _ready(tmp_path)
    call = ["preflight", "hospital-a", "--home", str(tmp_path), "--scenario", "cross-industry-network", "--json"]
    done = CliRunner().invoke(APP, call)
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["ok"] is True
    assert {line["check"] for line in told["findings"]} >= {"policy", "schema", "noise"}
    shutil.rmtree(home.folder)
    done = CliRunner().invoke(APP, call)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["findings"][0]["status"] == "failed"
    assert CliRunner().invoke(APP, ["preflight", "hospital-a"]).exit_code == 2
