"""A federation of containers for the tests: starts an engine where it can, runs `make up`, looks inside."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

#: A test's compose project: this, the process that made it, a random part.
PREFIX = "consortia-test-"
#: The tag of the tests' images: two checkouts on one engine never share one.
TAG = f"test-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"

#: Runs inside a container; the targets come as JSON on its command line, the answers go out as JSON.
PROBE = """
import http.client, json, socket, ssl, sys
from concurrent.futures import ThreadPoolExecutor
def state(target):
    try:
        socket.create_connection(target, 2).close()
        return "open"
    except OSError as error:
        return type(error).__name__
asked = json.loads(sys.argv[1])
targets = [tuple(target) for target in asked["connect"]]
with ThreadPoolExecutor(16) as pool:
    answers = {f"{host}:{port}": found for (host, port), found in zip(targets, pool.map(state, targets))}
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


def engine() -> str | None:
    """Return None when a Docker engine runs (starting one where a script for it lies), else why not."""
    if shutil.which("docker") and docker("info").returncode == 0:
        _sweep()
        return None
    given = os.environ.get("CONSORTIA_DOCKER_ENGINE")
    script = Path(given) if given else ROOT.parent / "shared" / "tools" / "docker-engine"
    if not script.is_file():
        return f"no Docker engine runs, and there is no {script} to start one"
    started = subprocess.run([str(script)], capture_output=True, text=True, timeout=900, check=False)
    if started.returncode:
        return f"{script} failed: {started.stderr[-300:]}"
    _sweep()
    return None


def _sweep() -> None:
    """Remove what test runs that were killed left behind."""
    label = "com.docker.compose.project"
    asked = ("ps --all", "network ls", "volume ls")
    lists = [docker(*words.split(), "--format", f'{{{{.Label "{label}"}}}}').stdout for words in asked]
    for project in sorted({name for text in lists for name in text.split() if name.startswith(PREFIX)}):
        if not _alive(project.removeprefix(PREFIX).split("-")[0]):
            docker("compose", "--project-name", project, "down", "--volumes", "--remove-orphans", "--timeout", "3")


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def _free_range() -> str:
    """Return a private range in which no network of the engine is."""
    taken = docker("network", "inspect", *docker("network", "ls", "--quiet").stdout.split()).stdout
    return secrets.choice([f"10.{second}" for second in range(64, 192) if f'"10.{second}.' not in taken])


def docker(*arguments: str, env: dict[str, str] | None = None, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a docker command."""
    return subprocess.run(
        ["docker", *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@dataclass
class Project:
    """A compose project."""

    env: dict[str, str]
    folder: Path

    def compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `docker compose`."""
        return docker("compose", *arguments, env=self.env, folder=self.folder)

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return what the engine says about each service's container."""
        ids = self.compose("ps", "--all", "--quiet").stdout.split()
        found = json.loads(docker("inspect", *ids).stdout)
        return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in found}

    def addresses(self, service: str) -> list[str]:
        """Return a service's addresses on all its networks."""
        networks = self.containers()[service]["NetworkSettings"]["Networks"].values()
        return [network["IPAddress"] for network in networks if network["IPAddress"]]

    def probe(self, service: str, connect: list[tuple[str, int]], http: list[tuple[str, str]]) -> dict[str, Any]:
        """Try to connect from inside a container; return what came of it."""
        asked = json.dumps({"connect": connect, "http": http})
        done = self.compose("exec", "-T", service, "python", "-c", PROBE, asked)
        assert done.returncode == 0, done.stderr
        answers: dict[str, Any] = json.loads(done.stdout)
        return answers

    def down(self) -> subprocess.CompletedProcess[str]:
        """Remove the containers and the volumes."""
        return self.compose("down", "--volumes", "--remove-orphans", "--timeout", "3")


@dataclass
class Federation(Project):
    """The coordinator's project. Its homes, runs, certificates and members lie in `own`."""

    own: Path

    @classmethod
    def of(cls, scenario: str, own: Path) -> Federation:
        """Return a federation that is not up yet."""
        env = {
            **os.environ,
            "SCENARIO": scenario,
            "COMPOSE_PROJECT_NAME": f"{PREFIX}{os.getpid()}-{secrets.token_hex(3)}",
            "CONSORTIA_TAG": TAG,
            "CONSORTIA_SUBNETS": _free_range(),  # another federation of the same scenario may be up
            **{f"CONSORTIA_{name.upper()}": str(own / name) for name in ("homes", "runs", "data", "pki", "members")},
            # PyTorch's own index may be out of reach; the base image of a test machine may bring the wheel.
            "TORCH_INDEX": os.environ.get("TORCH_INDEX", ""),
        }
        return cls(env, ROOT, own)

    def up(self) -> subprocess.CompletedProcess[str]:
        """Run the scenario once."""
        return self.make("up")

    def make(self, target: str) -> subprocess.CompletedProcess[str]:
        """Run a target of the Makefile."""
        return subprocess.run(
            ["make", target], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=1500, check=False
        )

    def records(self) -> list[dict[str, Any]]:
        """Return the records of all runs, oldest first."""
        return [json.loads(file.read_text()) for file in sorted((self.own / "runs").glob("*/result.json"))]

    def started(self) -> dict[str, str]:
        """Return when each service that stays up was started."""
        running = {name: item["State"] for name, item in self.containers().items()}
        return {name: state["StartedAt"] for name, state in running.items() if state["Status"] == "running"}
