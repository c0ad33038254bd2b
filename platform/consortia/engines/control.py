"""Controls a SuperLink with the `flwr` command: registers keys, submits a run, asks for its status."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomli_w
from flwr.common.constant import PUBLIC_KEY_ALREADY_IN_USE_MESSAGE

from clients import registry
from consortia.common.errors import RunFailedError
from consortia.engines.base import Job
from consortia.engines.nursery import Nursery
from consortia.messages.bundle import COMPONENTS
from consortia.vertical.request import total_steps

JOIN_SECONDS = 120.0
_CONNECTION = "coordinator"
_COMMAND_SECONDS = 120.0


class _CommandError(RunFailedError):
    """The `flwr` command failed; `output` is what it printed."""

    def __init__(self, sentence: str, output: str) -> None:
        self.output = output
        super().__init__(sentence)


class Control:
    """The Control API of one SuperLink.

    Parameters
    ----------
    folder : Path
        Folder of the command's own files and its log.
    address : str
        host:port of the SuperLink.
    authority : Path
        The certificate of the authority that signed the SuperLink's certificate.
    nursery : Nursery, optional
        Forks the command where there is one, since its imports take two seconds of CPU.
    """

    def __init__(self, folder: Path, address: str, authority: Path, nursery: Nursery | None = None) -> None:
        self._nursery = nursery
        self.folder = folder
        self.log = folder / "cli.log"
        self._home = folder / "home-cli"
        self._home.mkdir(parents=True, exist_ok=True)
        connection = {"address": address, "root-certificates": str(authority)}
        config = {"superlink": {"default": _CONNECTION, _CONNECTION: connection}}
        (self._home / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")

    def register(self, name: str, public_key: Path) -> bool:
        """Register a participant's key under its name; False if this key is already registered."""
        try:
            self._flwr("supernode", "register", str(public_key), _CONNECTION, "--name", name, "--format", "json")
        except _CommandError as error:
            if PUBLIC_KEY_ALREADY_IN_USE_MESSAGE in error.output:
                return False
            raise
        return True

    def submit(self, job: Job) -> str:
        """Submit a run to the SuperLink as a bundle that holds only a pyproject.toml. Return Flower's id."""
        app = self.folder / "consortia-run"
        app.mkdir(exist_ok=True)
        project = {
            "project": {"name": "consortia-run", "version": "1.0.0", "license": "Apache-2.0"},
            "tool": {
                "flwr": {
                    "app": {
                        "publisher": "consortia",
                        "components": COMPONENTS,
                        "config": job.run_config(JOIN_SECONDS),
                    }
                }
            },
        }
        (app / "pyproject.toml").write_text(tomli_w.dumps(project), encoding="utf-8")
        answer = self._flwr("run", str(app), _CONNECTION, "--format", "json")
        if not answer.get("success", True) or "run-id" not in answer:
            raise RunFailedError(f"the SuperLink did not take the run; see {self.log}")
        return str(answer["run-id"])

    def status(self, flower_run_id: str) -> str:
        """Return Flower's status of the run, such as `finished:failed`; `unknown` if Flower does not answer."""
        try:
            runs = self._flwr("ls", _CONNECTION, "--format", "json").get("runs", [])
        except RunFailedError:
            return "unknown"
        for item in runs:
            if str(item.get("run-id")) == flower_run_id:
                return str(item.get("status", ""))
        return "unknown"

    def _flwr(self, *arguments: str) -> dict[str, Any]:
        try:
            done = self._done(arguments, flower_environment(self._home))
        except subprocess.TimeoutExpired:
            raise RunFailedError(f"`flwr {arguments[0]}` did not end within {_COMMAND_SECONDS:.0f} s") from None
        try:
            answer: dict[str, Any] = json.loads(done.stdout or "{}")
        except json.JSONDecodeError:
            answer = {}
        if done.returncode != 0 or answer.get("success") is False:
            with (
                contextlib.suppress(OSError),
                self.log.open("a", encoding="utf-8") as file,
            ):  # the failure is named below
                file.write(f"$ flwr {' '.join(arguments)}\n{done.stdout}\n{done.stderr}\n")
            raise _CommandError(f"`flwr {arguments[0]}` failed; see {self.log}", done.stdout + done.stderr)
        return answer

    def _done(self, arguments: tuple[str, ...], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        if self._nursery is not None:
            done = self._nursery.run("flwr", arguments, environment, self.folder, _COMMAND_SECONDS)
            if done is not None:
                return done
        return subprocess.run(  # noqa: S603 - our own arguments
            [tool("flwr"), *arguments],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )


def longest_run(job: Job) -> float:
    """Return an upper bound on the seconds of a run, if every wait takes its whole deadline."""
    terms = job.scenario.contract.round
    rounds = max(total_steps(job.scenario), *(part.contract.participations for part in job.scenario.parts())) + 1
    return JOIN_SECONDS + rounds * terms.attempts * (terms.deadline_seconds + 60)


def read_status(record: Path, before: int) -> dict[str, Any] | None:
    """Return the coordinator's record if it was written after the time stamp `before` (0: no record before)."""
    if not record.is_file() or record.stat().st_mtime_ns == before:
        return None
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return found


def flower_environment(home: Path) -> dict[str, str]:
    """Return the environment of a Flower process that keeps its files in `home`."""
    return {
        **os.environ,
        # Flower starts its helpers from PATH. They must be those of this installation.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        # These processes have another working directory, but must find the same clients' files.
        registry.FOLDERS: os.pathsep.join(str(folder) for folder in registry.folders()),
        # Never import from the working directory.
        "PYTHONSAFEPATH": "1",
    }


def tool(name: str) -> str:
    """Return the path of a command of this installation."""
    return str(Path(sys.executable).parent / name)
