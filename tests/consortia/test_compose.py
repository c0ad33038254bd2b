"""A scenario as containers: what the command writes, what it runs, and the walls between the participants."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from consortia.deploy.compose import compose_text
from consortia.scenario import load_scenario

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ("cross-industry", "hospitals", "banks", "factories", "linear")
STEPS = {"keys", "homes"}  # start as root to hand files to their owner, without a network
ONCE = {*STEPS, "register", "runner"}  # run to their end on every `up`
#: Enough for linear's expectation (measured with the embedded engine: 4 are not, 6 are).
ROUNDS = 6

#: Runs inside a container; the targets come as JSON on its command line, the answers go out as JSON.
PROBE = """
import http.client, json, socket, ssl, sys
asked = json.loads(sys.argv[1])
answers = {}
for host, port in asked["connect"]:
    try:
        socket.create_connection((host, port), 2).close()
        answers[f"{host}:{port}"] = "open"
    except OSError as error:
        answers[f"{host}:{port}"] = type(error).__name__
for method, path in asked["http"]:
    context = ssl.create_default_context(cafile="/keys/ca.crt")
    link = http.client.HTTPSConnection("proxy", 8000, timeout=5, context=context)
    link.putrequest(method, path)
    link.putheader("Content-Length", "0")
    link.putheader("Content-Type", "application/protobuf")
    link.endheaders()
    answers[f"{method} {path}"] = link.getresponse().status
print(json.dumps(answers))
"""


@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_file_is_what_the_command_writes(name: str) -> None:
    assert (ROOT / "scenarios" / f"{name}.compose.yml").read_text(encoding="utf-8") == compose_text(load_scenario(name))


@pytest.mark.parametrize("name", COMMITTED)
def test_every_service_is_behind_walls(name: str) -> None:
    scenario = load_scenario(name)
    plan = yaml.safe_load(compose_text(scenario))
    names = [seat.name for seat in scenario.roster]
    for service, terms in plan["services"].items():
        assert terms["read_only"] is True, service
        assert terms["cap_drop"] == ["ALL"], service
        assert terms["mem_limit"], service
        assert terms["cpus"], service
        # One way in and out, for participants on other hosts, and only under a profile: it has no volume, hence no key.
        assert ("ports" in terms) == (terms.get("profiles") == ["open"]) == (service == "door"), service
        assert ("outside" in terms.get("networks", [])) == (service == "door"), service
        assert ("cap_add" in terms) == (service in STEPS), service
    assert "volumes" not in plan["services"]["door"]
    assert set(plan["services"]["door"]["networks"]) & set(plan["services"]["proxy"]["networks"]) == {"door"}
    assert {name for name, network in plan["networks"].items() if network != {"internal": True}} == {"outside"}
    for participant in names:
        app = plan["services"][f"{participant}-app"]
        assert plan["services"][participant]["networks"] == [f"{participant}-fleet", f"{participant}-private"]
        assert app["networks"] == [f"{participant}-private"]
        mounts = [*app["volumes"], *plan["services"][participant]["volumes"]]
        own = {f"keys-{participant}", f"keys-{participant}-app"}
        assert {mount.split(":")[0] for mount in mounts if mount.startswith("keys-")} == own
        assert all(f"/{participant}" in mount for mount in mounts if mount.startswith("${CONSORTIA"))


def _engine() -> str | None:
    """Return None when a Docker engine runs (starting one where a script for it lies), else why not."""
    if shutil.which("docker") and _docker("info").returncode == 0:
        return None
    given = os.environ.get("CONSORTIA_DOCKER_ENGINE")
    script = Path(given) if given else ROOT.parent / "shared" / "tools" / "docker-engine"
    if not script.is_file():
        return f"no Docker engine runs, and there is no {script} to start one"
    started = subprocess.run([str(script)], capture_output=True, text=True, timeout=900, check=False)
    return None if started.returncode == 0 else f"{script} failed: {started.stderr[-300:]}"


def _docker(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@dataclass
class Federation:
    """A federation that has run linear."""

    env: dict[str, str]
    folder: Path
    first: subprocess.CompletedProcess[str]

    def up(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "up"], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=900, check=False
        )

    def containers(self) -> dict[str, dict[str, Any]]:
        ids = _docker("compose", "ps", "--all", "--quiet", env=self.env).stdout.split()
        found = json.loads(_docker("inspect", *ids).stdout)
        return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in found}

    def probe(self, service: str, connect: list[tuple[str, int]], http: list[tuple[str, str]]) -> dict[str, Any]:
        asked = json.dumps({"connect": connect, "http": http})
        done = _docker("compose", "exec", "-T", service, "python", "-c", PROBE, asked, env=self.env)
        assert done.returncode == 0, done.stderr
        answers: dict[str, Any] = json.loads(done.stdout)
        return answers

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(file.read_text()) for file in sorted((self.folder / "runs").glob("*/result.json"))]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    if reason := _engine():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("compose")
    env = {
        **os.environ,
        "SCENARIO": "linear",
        "COMPOSE_PROJECT_NAME": f"consortia-test-{secrets.token_hex(3)}",
        "CONSORTIA_TAG": "test",
        "CONSORTIA_ROUNDS": str(ROUNDS),
        "CONSORTIA_HOMES": str(folder / "homes"),
        "CONSORTIA_RUNS": str(folder / "runs"),
        "CONSORTIA_DATA": str(folder / "data"),
        "CONSORTIA_PKI": str(folder / "pki"),
        "CONSORTIA_MEMBERS": str(folder / "members"),
        # PyTorch's own index may be out of reach; the default one has a build, too.
        "TORCH_INDEX": os.environ.get("TORCH_INDEX", ""),
    }
    made = Federation(env, folder, subprocess.CompletedProcess([], 1))
    try:
        made.first = made.up()
        yield made
    finally:
        _docker("compose", "down", "--volumes", "--remove-orphans", "--timeout", "3", env=env)


@pytest.mark.containers
def test_up_runs_the_scenario_to_its_table(federation: Federation) -> None:
    done = federation.first
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"completed after {ROUNDS} rounds" in done.stdout
    record = federation.records()[0]
    assert record["status"] == "completed"
    assert record["observer"] == "coordinator"
    assert {seat["rounds_contributed"] for seat in record["participants"].values()} == {ROUNDS}
    for name in record["participants"]:
        home = federation.folder / "homes" / name
        assert (home / "ledger.db").is_file()
        assert (home / "runs" / record["run_id"] / "receipt.json").is_file()


@pytest.mark.containers
def test_a_participant_reaches_the_fleet_api_and_nothing_else(federation: Federation) -> None:
    containers = federation.containers()

    def addresses(service: str) -> list[str]:
        return [n["IPAddress"] for n in containers[service]["NetworkSettings"]["Networks"].values() if n["IPAddress"]]

    foreign = [
        *((ip, 8000) for ip in addresses("superlink")),
        *((ip, 9094) for ip in addresses("line-b")),
        ("superlink", 8000),
        ("line-b", 9094),
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
    seen = federation.probe("line-a", foreign, [*hidden, ("GET", "/health"), ("POST", "/v1/fleet/pull-messages")])
    assert [pair for pair in foreign if seen[f"{pair[0]}:{pair[1]}"] == "open"] == []
    assert {path: seen[f"{method} {path}"] for method, path in hidden} == {path: 404 for _, path in hidden}
    assert seen["GET /health"] == 200
    assert seen["POST /v1/fleet/pull-messages"] == 401  # passed, and refused by the SuperLink: no key

    # The process that holds the rows reaches its own SuperNode only, not even the proxy.
    proxies = [(ip, 8000) for ip in addresses("proxy")]
    seen = federation.probe("line-a-app", [("line-a", 9094), *foreign, *proxies], [])
    assert seen.pop("line-a:9094") == "open"
    assert "open" not in seen.values()


@pytest.mark.containers
def test_containers_are_hardened_and_share_nothing(federation: Federation) -> None:
    containers = federation.containers()
    mounts: dict[str, set[str]] = {}
    for service, item in containers.items():
        host = item["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert host["Memory"] > 0, service
        assert host["NanoCpus"] > 0, service
        assert not host["PortBindings"], service
        assert item["Config"]["User"].startswith("0:") == (service in STEPS), service
        mounts[service] = {m.get("Name") or m["Source"] for m in item["Mounts"]}
    both = {"line-a", "line-a-app"}, {"line-b", "line-b-app"}
    left, right = ({mount for service in services for mount in mounts[service]} for services in both)
    assert not left & right
    everyone_else = set(containers) - both[0] - STEPS
    assert not left & {mount for service in everyone_else for mount in mounts[service]}
    # The policy is the owner's: the process that trains cannot change it.
    policy = "/home/line-a/policy.toml"
    script = f"echo x >> {policy} || mv {policy} {policy}.old || rm -f {policy} || touch /data/x || touch /x"
    assert _docker("compose", "exec", "-T", "line-a-app", "sh", "-c", script, env=federation.env).returncode != 0


@pytest.mark.containers
def test_a_failed_run_exits_one_and_ledgers_outlive_the_volumes(federation: Federation) -> None:
    before = {name: (federation.folder / "homes" / name / "ledger.db").stat().st_ino for name in ("line-a", "line-b")}
    # Another number of rounds is another contract, which no policy allows: everybody refuses.
    federation.env["CONSORTIA_ROUNDS"] = str(ROUNDS - 1)
    running = {name: item["State"]["StartedAt"] for name, item in federation.containers().items() if name not in ONCE}
    done = federation.up()
    assert done.returncode == 1, done.stderr
    assert running == {n: i["State"]["StartedAt"] for n, i in federation.containers().items() if n not in ONCE}
    assert "CONTRACT_NOT_ALLOWED" in done.stdout + done.stderr
    assert federation.records()[-1]["status"] == "failed"
    assert _docker("compose", "down", "--volumes", "--timeout", "3", env=federation.env).returncode == 0
    after = {name: (federation.folder / "homes" / name / "ledger.db").stat().st_ino for name in before}
    assert after == before
