"""The fault table's containers: processes of a real federation of containers, killed from the host as a crash would.

`docker kill` counts as a stop by the user, after which nothing restarts; so the signals come from the host, which wants
root and an engine on this machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import faults

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests" / "helpers"))

from federation import Federation, engine  # noqa: E402

Fault = Callable[[Federation], None]
NAMES = ("line-a", "line-b")
#: What `make up` needs of the repository.
_BUILT_FROM = (
    *("Makefile", "docker-compose.yml", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"),
    *("platform", "strategies", "clients", "privacy", "wheels"),
)
#: The user of the containers.
_USER = 49999


def why_not() -> str:
    """Return why containers cannot be killed here; nothing when they can."""
    return engine() or ("" if os.geteuid() == 0 else "wanted root, which may signal the processes of containers")


@dataclass
class Up:
    """What came of one `make up`."""

    folder: Path
    status: int
    said: str
    started: float
    ended: float
    injected: dict[str, tuple[int, float]] = field(default_factory=dict)
    #: The round under way when a fault was over.
    until: dict[str, int] = field(default_factory=dict)

    @property
    def failure(self) -> str:
        """Why the runner says that the run failed; nothing when it says nothing."""
        return next(
            (line.removeprefix("failed: ") for line in self.said.splitlines() if line.startswith("failed: ")), ""
        )

    def recovery(self, fault: str) -> float:
        """Return the seconds from a fault to the first round committed after it, or to the end of the command."""
        number, at = self.injected[fault]
        return faults.rounds_done(self.folder).get(self.until.get(fault, number + 1), self.ended) - at


@contextlib.contextmanager
def deployed(folder: Path, world: faults.World) -> Iterator[Federation]:
    """Give a world's scenario and homes to a federation of containers, from a copy of the repository."""
    copy = folder / "repository"
    copy.mkdir()
    for name in _BUILT_FROM:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, copy / name)
    shutil.copytree(world.scenario.parent / "policies", copy / "scenarios" / "policies")
    scenario = copy / "scenarios" / world.scenario.name
    shutil.copyfile(world.scenario, scenario)
    written = [sys.executable, "-P", "-m", "consortia.cli", "compose", str(scenario)]
    subprocess.run(written, check=True, capture_output=True)
    made = Federation.of(scenario.stem, world.folder)
    made.folder = copy
    for path in (world.folder / "homes").rglob("*"):
        os.chown(path, _USER, _USER)
    try:
        yield made
    finally:
        made.down()


def up(federation: Federation, after: Mapping[int, tuple[str, Fault]], resume: Path | None = None) -> Up:
    """Run `make up`, or go on with a run, and let each fault follow the committed round of its number, or a later one.

    Faults last, and rounds go on meanwhile: each is noted with the newest round that was committed when it began.
    """
    runs = federation.own / "runs"
    env = {**federation.env, "CONSORTIA_RESUME": resume.name if resume else ""}
    known = {*runs.glob("faults-*")} if resume is None else set()
    seen = {} if resume is None else faults.rounds_done(resume)
    started, injected, until = time.time(), {}, {}
    with (federation.own / "up.log").open("w+") as log:
        process = subprocess.Popen(["make", "up"], cwd=federation.folder, env=env, stdout=log, stderr=log)
        folder = resume
        while process.poll() is None:
            time.sleep(0.05)
            folder = folder or next(iter({*runs.glob("faults-*")} - known), None)
            if folder is None:
                continue
            for number in sorted(faults.rounds_done(folder).keys() - seen.keys()):
                seen[number] = time.time()
                if number in after:
                    name, fault = after[number]
                    injected[name] = (max(faults.rounds_done(folder)), time.time())
                    fault(federation)
                    until[name] = max(faults.rounds_done(folder)) + 1
        log.seek(0)
        said = log.read()
    if folder is None:
        raise RuntimeError(f"make up: {said[-2000:]}")
    return Up(folder, process.returncode, said, started, time.time(), injected, until)


def kill(service: str) -> Fault:
    """SIGKILL the first process of a service's container, with which all others end."""
    return lambda federation: os.kill(federation.containers()[service]["State"]["Pid"], signal.SIGKILL)


def pause(service: str, seconds: float) -> Fault:
    """Freeze a service's container for so many seconds."""

    def fault(federation: Federation) -> None:
        federation.compose("pause", service)
        time.sleep(seconds)
        federation.compose("unpause", service)

    return fault
