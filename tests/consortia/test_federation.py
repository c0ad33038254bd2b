"""A federation of containers from `make up` to the seventh participant: its walls, its exit status, its certificates.

One federation for the whole file; the tests follow one another as the days of its life.
"""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from federation import ROOT, TAG, Federation, Project, docker, engine

from consortia.common.strict import read_toml
from consortia.terms.scenario import load_scenario

pytestmark = pytest.mark.containers

SCENARIO = load_scenario("cross-industry-network")
NAMES = [participant.name for participant in SCENARIO.roster]
STEPS = {"keys", "homes"}  # start as root to hand files to their owner, without a network
FIRST, SECOND = "hospital-a", "hospital-b"


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    if reason := engine():
        pytest.skip(reason)
    made = Federation.of("cross-industry-network", tmp_path_factory.mktemp("federation"))
    bridge = json.loads(docker("network", "inspect", "bridge").stdout)[0]["IPAM"]["Config"][0]
    # An engine that was never started before names the subnet only; its first host is the gateway.
    gateway = bridge.get("Gateway") or next(ipaddress.ip_network(bridge["Subnet"]).hosts())
    address, port = f"{gateway}:{_free_port()}", _free_port()
    # The host's address is all that the joining participant's project will share with this one.
    made.env |= {"COMPOSE_PROFILES": "open,dashboard", "CONSORTIA_ADDRESS": address, "CONSORTIA_PUBLISH": address}
    made.env |= {"CONSORTIA_TRACK": "tensorboard,mlflow"}
    made.env |= {"CONSORTIA_DASHBOARD_PORT": port, "CONSORTIA_DASHBOARD_TOKEN": secrets.token_urlsafe(24)}
    try:
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def first(federation: Federation) -> subprocess.CompletedProcess[str]:
    return federation.up()


@pytest.fixture(scope="module")
def kit(federation: Federation, first: Any) -> Iterator[Project]:
    """Where hospital-c works: a project of its own, with nothing of the coordinator's but its address."""
    folder = federation.own / "kits" / "hospital-c"
    env = {key: value for key, value in federation.env.items() if not key.startswith(("COMPOSE_", "SCENARIO"))}
    env |= {"COMPOSE_PROJECT_NAME": f"{federation.env['COMPOSE_PROJECT_NAME']}-c", "COMPOSE_PROFILES": "dashboard"}
    env |= {"CONSORTIA_DASHBOARD_PORT": _free_port(), "CONSORTIA_DASHBOARD_TOKEN": secrets.token_urlsafe(24)}
    project = Project(env, folder)
    try:
        yield project
    finally:
        project.down()


def test_up_runs_six_participants_and_twenty_rounds_to_the_table(
    federation: Federation, first: subprocess.CompletedProcess[str]
) -> None:
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    assert "completed after 20 rounds" in first.stdout
    (record,) = federation.records()
    assert record["status"] == "completed"
    assert record["observer"] == "coordinator"
    assert {
        name: participant["rounds_contributed"] for name, participant in record["participants"].items()
    } == dict.fromkeys(NAMES, 20)
    for name in NAMES:
        assert name in first.stdout
        home = federation.own / "homes" / name
        assert (home / "ledger.db").is_file()
        assert (home / "runs" / record["run_id"] / "receipt.json").is_file()


def test_trackers_leave_their_files_beside_the_runs(federation: Federation, first: Any) -> None:
    (run,) = (federation.own / "runs").glob("*/tensorboard")
    assert [*run.glob("events.out.tfevents.*")]
    with sqlite3.connect(federation.own / "runs" / "mlflow.db") as store:
        ((rounds,),) = store.execute("SELECT COUNT(DISTINCT step) FROM metrics WHERE key = 'round seconds'").fetchall()
        ((status,),) = store.execute("SELECT status FROM runs").fetchall()
    assert (rounds, status) == (20, "FINISHED")


def test_receipts_are_read_where_they_stay(federation: Federation, first: Any) -> None:
    shown = federation.make("receipts")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert shown.stdout.count("federated") >= len(NAMES)
    for name in NAMES:
        assert f"{name}: cross-industry-network-" in shown.stdout
        assert name not in shown.stderr


def _shown(project: Project, path: str) -> str:
    """Return a page of a project's dashboard as who has the token sees it; everybody else is asked to sign in."""
    host = f"http://127.0.0.1:{project.env['CONSORTIA_DASHBOARD_PORT']}"
    with urllib.request.urlopen(host + path, timeout=10) as answer:
        assert answer.url == host + "/sign-in"
    token = {"Authorization": f"Bearer {project.env['CONSORTIA_DASHBOARD_TOKEN']}"}
    with urllib.request.urlopen(urllib.request.Request(host + path, headers=token), timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def test_the_dashboard_shows_the_run_to_who_has_the_token(federation: Federation, first: Any) -> None:
    assert federation.records()[0]["run_id"] in _shown(federation, "/")


def test_a_participant_reaches_the_fleet_api_and_nothing_else(federation: Federation, first: Any) -> None:
    foreign = [
        *((ip, 8000) for ip in federation.addresses("superlink")),
        *((ip, 9094) for ip in federation.addresses(SECOND)),
        *((ip, 8000) for ip in federation.addresses("door")),
        ("superlink", 8000),
        (SECOND, 9094),
        ("example.org", 443),
        ("192.0.2.1", 443),  # an address of the documentation, that stands for the outside
    ]
    hidden = (
        ("POST", "/v1/control/list-runs"),
        ("POST", "/v1/control/start-run"),
        ("POST", "/v1/runtime/acquire-task"),
        ("POST", "/v1/fleet/../control/list-runs"),
        ("POST", "/v1/fleet/%2e%2e/control/list-runs"),
        ("POST", "/v1/fleet/..%2fcontrol/list-runs"),
        ("POST", "//v1/control/list-runs"),
        ("POST", "/%76%31/control/list-runs"),
        ("POST", "https://superlink:8000/v1/control/list-runs"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
    )
    asked = [*hidden, ("GET", "/health"), ("POST", "/v1/fleet/pull-messages")]
    seen = federation.probe(FIRST, foreign, asked)
    assert [pair for pair in foreign if seen[f"{pair[0]}:{pair[1]}"] == "open"] == []
    assert {path: seen[f"{method} {path}"] for method, path in hidden} == {path: 404 for _, path in hidden}
    assert seen["GET /health"] == 200
    assert seen["POST /v1/fleet/pull-messages"] == 401  # no key, no time, no signature: refused by the proxy

    # The process that holds the rows reaches its own SuperNode only, not even the proxy.
    proxies = [(ip, 8000) for ip in federation.addresses("proxy")]
    seen = federation.probe(f"{FIRST}-app", [(FIRST, 9094), *foreign, *proxies], [])
    assert seen.pop(f"{FIRST}:9094") == "open"
    assert "open" not in seen.values()


def test_a_database_on_a_participants_own_network_is_that_participants_alone(
    federation: Federation, first: Any
) -> None:
    project = federation.env["COMPOSE_PROJECT_NAME"]
    network = ("--network", f"{project}_{FIRST}-private", "--network-alias", "database")
    serve = (f"consortia:{TAG}", "python", "-m", "http.server", "5432")
    started = docker("run", "--detach", "--rm", "--name", f"{project}-database", *network, *serve)
    assert started.returncode == 0, started.stderr
    try:
        found = json.loads(docker("inspect", f"{project}-database").stdout)[0]["NetworkSettings"]["Networks"]
        targets = [("database", 5432), (next(iter(found.values()))["IPAddress"], 5432)]
        assert set(federation.probe(f"{FIRST}-app", targets, []).values()) == {"open"}
        for other in (f"{SECOND}-app", SECOND, "superexec"):
            assert "open" not in federation.probe(other, targets, []).values()
    finally:
        docker("rm", "--force", f"{project}-database")


def test_containers_are_hardened_and_share_nothing(federation: Federation, first: Any) -> None:
    containers = federation.containers()
    mounts: dict[str, set[str]] = {}
    for service, item in containers.items():
        host = item["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert host["Memory"] > 0, service
        assert host["NanoCpus"] > 0, service
        assert bool(host["PortBindings"]) == (service in {"door", "dashboard"}), service
        assert item["Config"]["User"].startswith("0:") == (service in STEPS), service
        mounts[service] = {m.get("Name") or m["Source"] for m in item["Mounts"]}
    seen = {name: mounts[name] | mounts[f"{name}-app"] for name in NAMES}
    for name in NAMES:
        others = set(containers) - {name, f"{name}-app"} - STEPS
        assert not seen[name] & {mount for service in others for mount in mounts[service]}
    assert not mounts["door"]
    # The policy is the owner's: the process that trains cannot change it.
    policy = f"/home/{FIRST}/policy.toml"
    script = f"echo x >> {policy} || mv {policy} {policy}.old || rm -f {policy} || touch /data/x || touch /x"
    assert federation.compose("exec", "-T", f"{FIRST}-app", "sh", "-c", script).returncode != 0


_IN_IMAGE = """
import json, os, shutil, subprocess, sys
from importlib.util import find_spec
tools = [tool for tool in ("pip", "pip3", "uv", "curl", "wget", "gcc", "cc", "ld", "make") if shutil.which(tool)]
modules = [name for name in ("pip", "ensurepip", "mlflow", "tensorboard") if find_spec(name)]
find = ["find", "/", "-xdev", "-perm", "/6000", "-type", "f"]
setuid = subprocess.run(find, capture_output=True, text=True).stdout
print(json.dumps({"tools": tools, "modules": modules, "setuid": setuid}))
"""


def test_a_participants_image_has_what_it_needs_and_no_more(federation: Federation, first: Any) -> None:
    found = {}
    for service in (FIRST, f"{FIRST}-app", "superexec"):
        done = federation.compose("exec", "-T", service, "python", "-c", _IN_IMAGE)
        assert done.returncode == 0, done.stderr
        found[service] = json.loads(done.stdout)
    assert found[FIRST] == found[f"{FIRST}-app"] == {"tools": [], "modules": [], "setuid": ""}
    assert found["superexec"] == {"tools": [], "modules": ["mlflow", "tensorboard"], "setuid": ""}
    refused = federation.compose("exec", "-T", f"{FIRST}-app", "consortia", "dashboard", "--runs", "/tmp")
    assert refused.returncode == 2
    assert "the coordinator's image" in refused.stderr
    base = os.environ.get("CONSORTIA_BASE", "python:3.11-slim-bookworm")
    sizes = [
        int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout)
        for image in (f"consortia-participant:{TAG}", base)
    ]
    assert sizes[0] - sizes[1] <= 1.25e9


def test_the_record_names_the_build_and_the_image(federation: Federation, first: Any) -> None:
    told = federation.records()[0]["environment"]
    words = (os.environ.get("CONSORTIA_BASE", "python:3.11-slim-bookworm"), os.environ.get("TORCH", "cpu"))
    script = ["sh", str(ROOT / "platform" / "build_id.sh"), str(ROOT), *words]
    assert told["build"] == subprocess.run(script, capture_output=True, text=True, check=True).stdout.strip()
    assert told["image"] == docker("image", "inspect", "--format", "{{.Id}}", f"consortia:{TAG}").stdout.strip()


def test_documented_commands_find_a_participants_home(federation: Federation, first: Any) -> None:
    for command in (f"budget show {FIRST}", f"budget history {FIRST}", f"home log {FIRST}", f"receipt {FIRST}"):
        done = federation.compose("exec", "-T", f"{FIRST}-app", "consortia", *command.split())
        assert done.returncode == 0, command + done.stdout + done.stderr


def _cli(federation: Federation, *arguments: str) -> None:
    own = federation.own
    folders = ("--scenario", SCENARIO.name, "--members", str(own / "members"))
    if arguments[0] == "add":
        folders += ("--pki", str(own / "pki"), "--out", str(own / "kits"))
    command = [sys.executable, "-P", "-m", "consortia.cli", "participant", *arguments, *folders]
    done = subprocess.run(
        command, cwd=ROOT, env=federation.env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seventh_joins_and_nobody_is_restarted(federation: Federation, kit: Project) -> None:
    before = federation.started()
    assert set(before) >= {"superlink", "superexec", "proxy", "door", *NAMES, *(f"{name}-app" for name in NAMES)}
    address = federation.env["CONSORTIA_ADDRESS"]
    participant = ("--industry", "hospital", "--dataset", "heart", "--site", "va", "--units", "200", "--epsilon", "1")
    _cli(federation, "add", "hospital-c", *participant, "--address", address)
    _fill_in(kit.folder / "policy.toml")

    # hospital-c makes its own key; before the coordinator has it, the broken link is named.
    made = kit.compose("run", "--rm", "-T", "keys")
    assert made.returncode == 0, made.stderr
    looked = kit.compose("run", "--rm", "-T", "preflight")
    assert looked.returncode == 1
    assert "key: failed: the coordinator does not know this key" in looked.stderr
    assert looked.stdout.count(": ok: ") == 6
    home = kit.compose("run", "--rm", "-T", "preflight-home")
    assert home.returncode == 0, home.stdout + home.stderr
    assert "σ = " in home.stdout

    _cli(federation, "key", "hospital-c", "--public-key", str(kit.folder / "hospital-c.pub"))
    told = federation.compose("run", "--rm", "-T", "--no-deps", "register")
    assert "register: registered hospital-c" in told.stdout, told.stdout + told.stderr
    looked = kit.compose("run", "--rm", "-T", "preflight")
    assert looked.returncode == 0, looked.stdout + looked.stderr
    joined = kit.compose("up", "--detach")
    assert joined.returncode == 0, joined.stderr

    done = federation.up()
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    record = federation.records()[-1]
    assert {
        name: participant["rounds_contributed"] for name, participant in record["participants"].items()
    } == dict.fromkeys([*NAMES, "hospital-c"], 20)
    assert federation.started() == before
    assert (kit.folder / "home" / "runs" / record["run_id"] / "receipt.json").is_file()


def test_the_seventh_shares_the_coordinators_address_and_nothing_else(federation: Federation, kit: Project) -> None:
    host, _, port = federation.env["CONSORTIA_ADDRESS"].partition(":")
    inside = [(ip, 8000) for service in ("superlink", "proxy") for ip in federation.addresses(service)]
    inside += [(ip, 9094) for name in NAMES for ip in federation.addresses(name)]
    seen = kit.probe("hospital-c", [(host, int(port)), *inside], [])
    assert seen.pop(f"{host}:{port}") == "open"
    assert "open" not in seen.values()
    seen = kit.probe("hospital-c-app", [("hospital-c", 9094), (host, int(port)), *inside], [])
    assert seen.pop("hospital-c:9094") == "open"
    assert "open" not in seen.values()


def test_the_seventh_looks_at_its_own_view(federation: Federation, kit: Project) -> None:
    run = federation.records()[-1]["run_id"]
    assert "Rows set aside (quarantine)" in _shown(kit, f"/runs/{run}")  # the receipt, from the home
    deadline = time.monotonic() + 60
    while f"run {run}" not in _shown(kit, "/"):  # the account, counted in the background
        assert time.monotonic() < deadline
        time.sleep(0.5)
    (binding,) = kit.containers()["dashboard"]["NetworkSettings"]["Ports"]["8051/tcp"]
    assert binding["HostIp"] == "127.0.0.1"
    mounts = {mount["Destination"] for mount in kit.containers()["dashboard"]["Mounts"]}
    assert mounts == {"/home/hospital-c", "/home/hospital-c/policy.toml"}  # neither rows nor keys
    away = [(ip, 8000) for ip in federation.addresses("door")] + [("hospital-c", 9094), ("example.org", 443)]
    assert "open" not in kit.probe("dashboard", away, []).values()


def test_certificates_renew_while_the_participants_stay_up(federation: Federation, kit: Project) -> None:
    before, old = federation.started(), (federation.own / "pki" / "proxy.pem").read_bytes()
    done = federation.make("renew")
    assert done.returncode == 0, done.stdout + done.stderr
    after = federation.started()
    assert {name for name in before if before[name] != after[name]} == {"superlink"}
    assert (federation.own / "pki" / "proxy.pem").read_bytes() != old
    # What the proxy shows now: a handshake through the door, trusting the authority that hospital-c got when it joined.
    looked = kit.compose("run", "--rm", "-T", "preflight")
    for check in ("address", "TLS chain", "name (SAN)", "expiry"):
        assert f"{check}: ok" in looked.stdout, looked.stdout + looked.stderr


def test_leaving_revokes_the_key_and_keeps_the_ledger(federation: Federation, kit: Project) -> None:
    spent = (kit.folder / "home" / "ledger.db").stat().st_size
    assert kit.compose("stop", "--timeout", "10").returncode == 0
    _cli(federation, "remove", "hospital-c")
    told = federation.compose("run", "--rm", "-T", "--no-deps", "register")
    assert "revoked hospital-c" in told.stdout, told.stdout + told.stderr
    assert "key: failed" in kit.compose("run", "--rm", "-T", "preflight").stderr
    assert kit.down().returncode == 0
    assert (kit.folder / "home" / "ledger.db").stat().st_size >= spent


def test_a_refused_run_exits_two_and_ledgers_outlive_the_volumes(federation: Federation, kit: Project) -> None:
    before = {name: (federation.own / "homes" / name / "ledger.db").stat().st_ino for name in NAMES}
    # Another number of rounds is another contract, which no policy allows: everybody refuses.
    federation.env["CONSORTIA_ROUNDS"] = "3"
    done = federation.up()
    assert done.returncode == 2, done.stdout[-3000:] + done.stderr[-3000:]
    assert "CONTRACT_NOT_ALLOWED" in done.stdout + done.stderr
    runs = sorted((federation.own / "runs").glob("*/coordinator.json"))  # by time: the newest is last
    assert json.loads(runs[-1].read_text())["refused"] is True
    assert federation.down().returncode == 0
    assert {name: (federation.own / "homes" / name / "ledger.db").stat().st_ino for name in NAMES} == before


def _fill_in(file: Path) -> None:
    """What the owner of hospital-c writes into its policy."""
    data = read_toml(file)
    data["dataset"]["heart"] |= {"source": "synthetic:200", "unit": "record"}
    data["budget"] = {"run": {"epsilon": 1.0, "delta": 1e-5}, "lifetime": {"epsilon": 4.0, "delta": 4e-5}}
    data["allow"]["contracts"] = [f"sha256:{SCENARIO.contract.sha256()}"]
    file.write_text(tomli_w.dumps(data), encoding="utf-8")
