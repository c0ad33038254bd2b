"""The Flower engine: a real SuperLink and one SuperNode per participant, child processes on loopback.

TLS and node keys are made for this run and thrown away with it. A participant's name is the name under which
its key is registered. The command starts, watches and ends every process.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tomli_w

from consortia.deploy.pki import make_authority, write_node_key, write_server
from consortia.engines.base import Job
from consortia.errors import RunFailedError

_CONNECTION = "loopback"
_STARTUP_SECONDS = 60.0
_JOIN_SECONDS = 120.0
_STATUS_EVERY_SECONDS = 5.0
_DAYS = 2
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run(job: Job) -> None:
    """Run a job on real Flower processes (see `consortia.engines.base.Engine`)."""
    with Federation(job) as federation:
        federation.start()
        federation.submit()
        federation.wait()


class Federation:
    """The processes of one run."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.folder = (job.folder / "flower").resolve()
        self.port = _free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.flower_run_id = ""

    def __enter__(self) -> Federation:
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(mode=0o700, parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        """End every process; keys and certificates go with them, logs stay."""
        for process in self.processes.values():
            _signal_group(process, signal.SIGTERM)
        end = time.monotonic() + 10
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
            _signal_group(process, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.folder / "pki", ignore_errors=True)

    def start(self) -> None:
        """Start the SuperLink, register every key under its participant's name, start the SuperNodes."""
        pki = self.folder / "pki"
        write_server(pki, make_authority("consortia run", _DAYS), ["localhost", "127.0.0.1"], _DAYS)
        names = list(self.job.homes)
        keys = {name: write_node_key(pki, name) for name in names}
        self._write_connection()
        self._spawn(
            "superlink",
            "flower-superlink",
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--ssl-ca-certfile", str(pki / "ca.crt")),
            *("--ssl-certfile", str(pki / "server.pem"), "--ssl-keyfile", str(pki / "server.key")),
            "--enable-supernode-auth",
            *("--database", str(self.folder / "state.db")),
            "--disable-runtime-dependency-installation",
        )
        self._wait_for_superlink()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: self._register(name, keys[name][1]), names))
        for name in names:
            config = tomli_inline(self.job.node_config(name))
            self._spawn(
                name,
                "flower-supernode",
                *("--superlink", f"127.0.0.1:{self.port}"),
                *("--root-certificates", str(pki / "ca.crt")),
                *("--auth-supernode-private-key", str(keys[name][0])),
                *("--host", "127.0.0.1", "--port", str(_free_port())),
                *("--node-config", config),
            )
        pids = {name: process.pid for name, process in self.processes.items()}
        (self.folder / "processes.json").write_text(json.dumps({"port": self.port, "pids": pids}))

    def submit(self) -> None:
        """Hand the run to the SuperLink as a bundle that holds a pyproject.toml and nothing else."""
        app = self.folder / "consortia-run"
        app.mkdir()
        project = {
            "project": {"name": "consortia-run", "version": "1.0.0", "license": "Apache-2.0"},
            "tool": {
                "flwr": {
                    "app": {
                        "publisher": "consortia",
                        "components": {
                            "serverapp": "consortia.server_app:app",
                            "clientapp": "consortia.client_app:app",
                        },
                        "config": self.job.run_config(_JOIN_SECONDS),
                    }
                }
            },
        }
        (app / "pyproject.toml").write_text(tomli_w.dumps(project), encoding="utf-8")
        answer = self._flwr("run", str(app), _CONNECTION, "--format", "json")
        if not answer.get("success", True) or "run-id" not in answer:
            raise RunFailedError(f"the SuperLink did not take the run; see {self.folder}/superlink.log")
        self.flower_run_id = str(answer["run-id"])

    def wait(self) -> None:
        """Wait for the record; a process that dies or a run that Flower ended is a named failure."""
        record = self.job.folder / "coordinator.json"
        before = record.stat().st_mtime_ns if record.is_file() else 0
        rounds = self.job.scenario.contract.rounds + 1
        terms = self.job.scenario.contract.round
        end = time.monotonic() + _JOIN_SECONDS + rounds * terms.attempts * (terms.deadline_seconds + 60)
        next_look = time.monotonic() + _STATUS_EVERY_SECONDS
        while time.monotonic() < end:
            if record.is_file() and record.stat().st_mtime_ns != before:
                status = json.loads(record.read_text(encoding="utf-8"))
                if status["status"] == "failed":
                    raise RunFailedError(status["reason"])
                return
            if self.processes["superlink"].poll() is not None:
                raise RunFailedError(f"the SuperLink ended; see {self.folder}/superlink.log")
            if time.monotonic() > next_look:
                next_look = time.monotonic() + _STATUS_EVERY_SECONDS
                if self._flower_status().startswith("finished") and not (
                    record.is_file() and record.stat().st_mtime_ns != before
                ):
                    raise RunFailedError(f"Flower ended the run without a record; see {self.folder}/superlink.log")
            time.sleep(0.1)
        raise RunFailedError("the run passed every deadline; its last checkpoint is kept")

    def _flower_status(self) -> str:
        try:
            runs = self._flwr("ls", _CONNECTION, "--format", "json").get("runs", [])
        except RunFailedError:
            return "unknown"
        for item in runs:
            if str(item.get("run-id")) == self.flower_run_id:
                return str(item.get("status", ""))
        return "unknown"

    def _register(self, name: str, public_key: Path) -> None:
        self._flwr("supernode", "register", str(public_key), _CONNECTION, "--name", name, "--format", "json")

    def _write_connection(self) -> None:
        home = self.folder / "home-cli"
        home.mkdir()
        connection = {
            "superlink": {
                "default": _CONNECTION,
                _CONNECTION: {
                    "address": f"127.0.0.1:{self.port}",
                    "root-certificates": str(self.folder / "pki" / "ca.crt"),
                },
            }
        }
        (home / "config.toml").write_text(tomli_w.dumps(connection), encoding="utf-8")

    def _flwr(self, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(  # noqa: S603 - our own arguments
            [_tool("flwr"), *arguments],
            env=self._environment("cli"),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=_STARTUP_SECONDS * 2,
            check=False,
        )
        try:
            answer: dict[str, Any] = json.loads(done.stdout or "{}")
        except json.JSONDecodeError:
            answer = {}
        if done.returncode != 0 or answer.get("success") is False:
            log = self.folder / "cli.log"
            with log.open("a", encoding="utf-8") as file:
                file.write(f"$ flwr {' '.join(arguments)}\n{done.stdout}\n{done.stderr}\n")
            raise RunFailedError(f"`flwr {arguments[0]}` failed; see {log}")
        return answer

    def _environment(self, who: str) -> dict[str, str]:
        home = self.folder / f"home-{who}"
        home.mkdir(exist_ok=True)
        return {
            **os.environ,
            # Flower starts its helpers from PATH; they must come from this installation.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            # The working directory is never a place to import from.
            "PYTHONSAFEPATH": "1",
        }

    def _spawn(self, who: str, command: str, *arguments: str) -> None:
        self.processes[who] = spawn(
            [_tool(command), *arguments], self._environment(who), self.folder, self.folder / f"{who}.log"
        )

    def _wait_for_superlink(self) -> None:
        context = ssl.create_default_context(cafile=str(self.folder / "pki" / "ca.crt"))
        end = time.monotonic() + _STARTUP_SECONDS
        while time.monotonic() < end and self.processes["superlink"].poll() is None:
            try:
                url = f"https://localhost:{self.port}/health"
                with urllib.request.urlopen(url, timeout=2, context=context) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        raise RunFailedError(f"the SuperLink did not come up; see {self.folder}/superlink.log")


def spawn(command: list[str], environment: dict[str, str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a child that ends when this process does, however that ends."""
    with log.open("ab") as out:
        return subprocess.Popen(  # noqa: S603 - our own arguments
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call, no lock is taken
        )


_LIBC = ctypes.CDLL(None)


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def tomli_inline(values: dict[str, str | bool]) -> str:
    """Return `key="text" flag=true` as Flower's `--node-config` reads it."""
    return " ".join(line.replace(" = ", "=", 1) for line in tomli_w.dumps(values).splitlines())


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal a process and everything that it started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
