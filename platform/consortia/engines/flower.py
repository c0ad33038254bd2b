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
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import tomli_w

from consortia.common.disk import why_full, write_secret
from consortia.common.errors import RunFailedError, RunRefusedError
from consortia.common.pki import make_authority, write_node_key, write_server
from consortia.engines.base import Job
from consortia.engines.control import Control, flower_environment, longest_run, read_status, tool
from consortia.engines.nodes import reconcile
from consortia.engines.nursery import FORKED, Forked, Nursery

_STARTUP_SECONDS = 60.0
_END_SECONDS = 10.0
_GOODBYE_SECONDS = 1.0
_DAYS = 2
#: The processes of the coordinator. They are not started again: a run goes on with --resume.
_COORDINATOR = ("superlink", "coordinator")
#: How often a participant's process is restarted within a run, after 2, 4, 8 and then 10 seconds each. Together this is
#: longer than the minute in which Flower refuses a SuperNode whose predecessor was killed.
_MOST_RESTARTS = 10
_SLOWEST_RESTART = 10.0
_HERE = ("localhost", "127.0.0.1")


def run(job: Job) -> None:
    """Run a job on real Flower processes (see `consortia.engines.base.Engine`)."""
    with _ended_in_order(), Federation(job) as federation:
        federation.start()
        federation.submit()
        federation.wait()


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM end the run as an error does: processes are ended, keys deleted."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield  # somebody else decides what the signal does
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Federation:
    """The processes of one run."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.folder = (job.folder / "flower").resolve()
        self.port = _free_port()
        self.processes: dict[str, subprocess.Popen[bytes] | Forked] = {}
        self.nursery: Nursery | None = None
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
        # Only these hold what is not yet written. A SuperNode would first let its launcher's last question run out.
        apps = [process for who, process in self.processes.items() if who.endswith("-app") or who == "coordinator"]
        others = [process for process in self.processes.values() if process not in apps]
        for processes, seconds in ((apps, _END_SECONDS), (others, _GOODBYE_SECONDS)):
            end = time.monotonic() + seconds
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, end - time.monotonic()))
                _signal_group(process, signal.SIGKILL)
        for who, process in self.processes.items():
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:  # stuck in the kernel; nothing more can be done
                self._note(f"{who} (process {process.pid}) did not end within {_END_SECONDS:.0f} s of SIGKILL")
        if self.nursery is not None:
            self.nursery.close()
        shutil.rmtree(self.folder / "pki", ignore_errors=True)

    def start(self) -> None:
        """Start the SuperLink, register every key under its participant's name, start the SuperNodes."""
        pki = self.folder / "pki"
        industries = {participant.industry for participant in self.job.scenario.roster}
        self.nursery = Nursery(
            industries, flower_environment(self._home("nursery")), self.folder / "nursery.log"
        )  # it imports while keys are made
        write_server(pki, make_authority("consortia run", _DAYS), _HERE, _DAYS)
        write_secret(pki / "superexec.secret", secrets.token_bytes(32))
        names = list(self.job.homes)
        keys = {name: write_node_key(pki, name) for name in names}
        self._spawn(
            "superlink",
            "flower-superlink",
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--ssl-ca-certfile", str(pki / "ca.crt")),
            *("--ssl-certfile", str(pki / "server.pem"), "--ssl-keyfile", str(pki / "server.key")),
            *("--isolation", "process", "--superexec-auth-secret-file", str(pki / "superexec.secret")),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
        )
        self._wait_for_superlink()
        reconcile(self._superlink, pki / "ca.crt", {name: public for name, (_, public) in keys.items()})
        for name in names:
            self._start_participant(name, keys[name][0])
        self._start_coordinator()
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

    def _start_coordinator(self) -> None:
        """Start the process that takes the run and becomes its ServerApp."""
        pki = self.folder / "pki"
        self._spawn(
            "coordinator",
            *("python", "-P", "-m", "consortia.deploy.coordinator_app"),
            *("--runtime-api-address", self._superlink),
            *("--root-certificates", str(pki / "ca.crt")),
            *("--superexec-auth-secret-file", str(pki / "superexec.secret")),
        )

    def submit(self) -> None:
        """Submit the run to the SuperLink."""
        with contextlib.closing(Control(self._superlink, self.folder / "pki" / "ca.crt")) as control:
            control.submit(self.job)

    def wait(self) -> None:
        """Wait for the record. If a process ends or Flower ends the run, raise a named failure."""
        record = self.job.folder / "coordinator.json"
        before = record.stat().st_mtime_ns if record.is_file() else 0
        end = time.monotonic() + longest_run(self.job)
        while time.monotonic() < end:
            # First the processes: one that has ended wrote its record before.
            ended = [who for who in _COORDINATOR if who in self.processes and self.processes[who].poll() is not None]
            if (found := read_status(record, before)) is not None:
                if found.get("refused"):
                    raise RunRefusedError(*found["reason"].splitlines())
                if found["status"] == "failed":
                    raise RunFailedError(found["reason"])
                return
            if ended:
                what = {"superlink": "the SuperLink ended", "coordinator": "the ServerApp ended without a record"}
                raise RunFailedError(why_full(self.job.folder) or f"{what[ended[0]]}; see {self.folder}/{ended[0]}.log")
            self._restart_participants()
            time.sleep(0.1)
        raise RunFailedError("the run passed every deadline; its last checkpoint is kept")

    def _restart_participants(self) -> None:
        """Restart a participant's SuperNode or launcher if it ended, so that nobody has to do it by hand.

        Containers use `restart: unless-stopped` for this. After `_MOST_RESTARTS` restarts within a run the process
        stays down. The run continues as long as one launcher is running.
        """
        now = time.monotonic()
        gone: list[str] = []
        for who, process in list(self.processes.items()):
            if who in _COORDINATOR or (status := process.poll()) is None:
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

    @property
    def _superlink(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _home(self, who: str) -> Path:
        home = self.folder / f"home-{who}"
        home.mkdir(exist_ok=True)
        return home

    def _spawn(self, who: str, command: str, *arguments: str) -> None:
        environment = flower_environment(self._home(who))
        log = self.folder / f"{who}.log"
        self._commands[who] = (command, *arguments)
        program, rest = (arguments[2], arguments[3:]) if arguments[:2] == ("-P", "-m") else (command, arguments)
        if self.nursery is not None and (program in FORKED or program.startswith("consortia.")):
            forked = self.nursery.start(program, rest, environment, self.folder, log)
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


#: Asks the kernel to end this process with its parent, then becomes the command. What Python offers for this runs
#: between fork and exec (`preexec_fn`) and may wait for ever for a lock that another thread held.
_TIED = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)  # it ended in between
os.execv(sys.argv[2], sys.argv[2:])
"""


def spawn(command: list[str], environment: dict[str, str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a child process that ends when this process ends, for whatever reason."""
    program = shutil.which(command[0], path=environment.get("PATH")) or command[0]
    tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), program, *command[1:]]
    with log.open("ab") as out:
        return subprocess.Popen(  # noqa: S603 - our own arguments
            tied,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
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
