"""The Flower engine: a real SuperLink and one SuperNode per participant, child processes on loopback.

TLS keys and node keys are made for this run and deleted after it. Each participant's key is registered under the
participant's name. The command starts, watches and ends every process.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tomli_w

from consortia.common.disk import why_full, write_secret
from consortia.common.errors import RunFailedError, RunRefusedError
from consortia.common.pki import make_authority, write_node_key, write_server
from consortia.engines.base import Job
from consortia.engines.control import Control, flower_environment, longest_run, read_status, tool
from consortia.engines.nursery import Forked, Nursery, end_with_parent

_STARTUP_SECONDS = 60.0
_STATUS_EVERY_SECONDS = 5.0
_DAYS = 2
#: How often a participant's process is restarted within a run, after 2, 4, 8 and then 10 seconds each. Together this is
#: longer than the minute in which Flower refuses a SuperNode whose predecessor was killed.
_MOST_RESTARTS = 10
_SLOWEST_RESTART = 10.0
_HERE = ("localhost", "127.0.0.1")


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
        self.processes: dict[str, subprocess.Popen[bytes] | Forked] = {}
        self.nursery: Nursery | None = None
        self.flower_run_id = ""
        self._commands: dict[str, tuple[str, ...]] = {}
        self._restarts: dict[str, list[float]] = {}

    def __enter__(self) -> Federation:
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(mode=0o700, parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        """End every process. Delete keys and certificates; logs stay."""
        for process in self.processes.values():
            _signal_group(process, signal.SIGTERM)
        end = time.monotonic() + 10
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
            _signal_group(process, signal.SIGKILL)
            process.wait()
        if self.nursery is not None:
            self.nursery.close()
        shutil.rmtree(self.folder / "pki", ignore_errors=True)

    def start(self) -> None:
        """Start the SuperLink, register every key under its participant's name, start the SuperNodes."""
        pki = self.folder / "pki"
        industries = {participant.industry for participant in self.job.scenario.roster}
        self.nursery = Nursery(
            industries, flower_environment(self._home("nursery")), self.folder / "nursery.log"
        )  # it imports while the SuperLink starts
        write_server(pki, make_authority("consortia run", _DAYS), _HERE, _DAYS)
        names = list(self.job.homes)
        keys = {name: write_node_key(pki, name) for name in names}
        self.control = Control(self.folder, f"127.0.0.1:{self.port}", pki / "ca.crt", self.nursery)
        self._spawn(
            "superlink",
            "flower-superlink",
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--ssl-ca-certfile", str(pki / "ca.crt")),
            *("--ssl-certfile", str(pki / "server.pem"), "--ssl-keyfile", str(pki / "server.key")),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
        )
        self._wait_for_superlink()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: self.control.register(name, keys[name][1]), names))
        for name in names:
            self._start_participant(name, keys[name][0])
        pids = {name: process.pid for name, process in self.processes.items()}
        (self.folder / "processes.json").write_text(json.dumps({"port": self.port, "pids": pids}))

    def _start_participant(self, name: str, key: Path) -> None:
        """Start a SuperNode and its launcher. Their connection and their secret are the participant's own."""
        own, port = self.folder / "pki" / f"{name}-own", _free_port()
        write_server(own, make_authority(name, _DAYS), _HERE, _DAYS)
        write_secret(own / "superexec.secret", secrets.token_bytes(32))
        secret = ("--superexec-auth-secret-file", str(own / "superexec.secret"))
        self._spawn(
            name,
            *("python", "-P", "-m", "consortia.deploy.supernode"),
            *("--superlink", f"127.0.0.1:{self.port}"),
            *("--root-certificates", str(self.folder / "pki" / "ca.crt")),
            *("--auth-supernode-private-key", str(key)),
            *("--isolation", "process", *secret),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--ssl-ca-certfile", str(own / "ca.crt")),
            *("--ssl-certfile", str(own / "server.pem"), "--ssl-keyfile", str(own / "server.key")),
            *("--node-config", tomli_inline(self.job.node_config(name))),
        )
        self._spawn(
            f"{name}-app",
            *("python", "-P", "-m", "consortia.deploy.launcher"),
            *("--runtime-api-address", f"127.0.0.1:{port}"),
            *("--root-certificates", str(own / "ca.crt"), *secret),
        )

    def submit(self) -> None:
        """Submit the run to the SuperLink."""
        self.flower_run_id = self.control.submit(self.job)

    def wait(self) -> None:
        """Wait for the record. If a process ends or Flower ends the run, raise a named failure."""
        record = self.job.folder / "coordinator.json"
        before = record.stat().st_mtime_ns if record.is_file() else 0
        end = time.monotonic() + longest_run(self.job)
        next_look = time.monotonic() + _STATUS_EVERY_SECONDS
        while time.monotonic() < end:
            if (found := read_status(record, before)) is not None:
                if found.get("refused"):
                    raise RunRefusedError(*found["reason"].splitlines())
                if found["status"] == "failed":
                    raise RunFailedError(found["reason"])
                return
            if self.processes["superlink"].poll() is not None:
                raise RunFailedError(f"the SuperLink ended; see {self.folder}/superlink.log")
            self._restart_participants()
            if time.monotonic() > next_look:
                next_look = time.monotonic() + _STATUS_EVERY_SECONDS
                self._raise_if_ended(record, before)
            time.sleep(0.1)
        raise RunFailedError("the run passed every deadline; its last checkpoint is kept")

    def _raise_if_ended(self, record: Path, before: int) -> None:
        """Ask Flower; raise a named failure when it ended the run and no record will come."""
        status = self.control.status(self.flower_run_id)
        if status == "running" or read_status(record, before) is not None:
            return
        full = why_full(self.job.folder)  # then Flower may have ended the run and be unable to answer
        if status.startswith("finished") or (status == "unknown" and full):
            raise RunFailedError(full or f"Flower ended the run without a record; see {self.folder}/superlink.log")

    def _restart_participants(self) -> None:
        """Restart a participant's SuperNode or launcher if it ended, so that nobody has to do it by hand.

        Containers use `restart: unless-stopped` for this. After `_MOST_RESTARTS` restarts within a run the process
        stays down. The run continues as long as one launcher is running.
        """
        now = time.monotonic()
        gone: list[str] = []
        for who, process in list(self.processes.items()):
            if who == "superlink" or (status := process.poll()) is None:
                continue
            times = self._restarts.setdefault(who, [])
            if len(times) == _MOST_RESTARTS:
                gone.append(who)
            elif not times or now - times[-1] > min(2.0 ** len(times), _SLOWEST_RESTART):
                times.append(now)
                self._note(f"{who} ended (status {status}); started again, {len(times)} of {_MOST_RESTARTS}")
                self._spawn(who, *self._commands[who])
        launchers = {who for who in self.processes if who.endswith("-app")}
        if launchers and launchers <= set(gone):
            log = self.folder / f"{min(launchers)}.log"
            raise RunFailedError(f"every participant's launcher ended {_MOST_RESTARTS} times; see {log}")

    def _note(self, sentence: str) -> None:
        with contextlib.suppress(OSError), (self.folder / "supervisor.log").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {sentence}\n")

    def _home(self, who: str) -> Path:
        home = self.folder / f"home-{who}"
        home.mkdir(exist_ok=True)
        return home

    def _spawn(self, who: str, command: str, *arguments: str) -> None:
        environment = flower_environment(self._home(who))
        log = self.folder / f"{who}.log"
        self._commands[who] = (command, *arguments)
        if self.nursery is not None and command == "python" and arguments[:2] == ("-P", "-m"):
            forked = self.nursery.start(arguments[2], arguments[3:], environment, self.folder, log)
            if forked is not None:
                self.processes[who] = forked
                return
        self.processes[who] = spawn([tool(command), *arguments], environment, self.folder, log)

    def _wait_for_superlink(self) -> None:
        context = ssl.create_default_context(cafile=str(self.folder / "pki" / "ca.crt"))
        end, last = time.monotonic() + _STARTUP_SECONDS, "it did not listen"
        while time.monotonic() < end and self.processes["superlink"].poll() is None:
            try:
                url = f"https://localhost:{self.port}/health"
                with urllib.request.urlopen(url, timeout=2, context=context) as answer:
                    if answer.status == 200:
                        return
            except OSError as error:
                last = str(error)
                time.sleep(0.1)
        raise RunFailedError(f"the SuperLink did not come up ({last}); see {self.folder}/superlink.log")


def spawn(command: list[str], environment: dict[str, str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a child process that ends when this process ends, for whatever reason."""
    with log.open("ab") as out:
        return subprocess.Popen(  # noqa: S603 - our own arguments
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - one system call, no lock is taken
        )


def tomli_inline(values: dict[str, str | bool]) -> str:
    """Return `key="text" flag=true`, the format of Flower's `--node-config`."""
    return " ".join(line.replace(" = ", "=", 1) for line in tomli_w.dumps(values).splitlines())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _signal_group(process: subprocess.Popen[bytes] | Forked, number: int) -> None:
    """Send a signal to a process and to all processes that it started."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
