"""CPU seconds and memory of processes and of containers, by their part in a federation."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_ITS_OWN = ("superlink", "superexec", "proxy", "runner", "register", "keys", "homes", "coordinator")
_STILL_SECONDS = 5.0
_IMPORTED_MIB = 40.0


def role(who: str) -> str:
    """Return the role of a process or service of a federation: supernode, launcher or its own name."""
    if who in _ITS_OWN:
        return who
    return "launcher" if who.endswith("-app") else "supernode"


def _of_groups(groups: Mapping[int, str]) -> Iterator[tuple[str, Path, list[str]]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) in groups:
                yield groups[int(fields[2])], folder, fields


def cpu_of_groups(groups: Mapping[int, str]) -> dict[str, float]:
    """Return CPU seconds by role, of process groups and of the children that they waited for."""
    found = dict.fromkeys(groups.values(), 0.0)
    for who, _, fields in _of_groups(groups):
        found[who] += sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return found


def pss_of_groups(groups: Mapping[int, str]) -> dict[str, float]:
    """Return bytes by role: of each process its private pages and its share of those that it shares."""
    found = dict.fromkeys(groups.values(), 0.0)
    for who, folder, _ in _of_groups(groups):
        with contextlib.suppress(OSError):
            found[who] += rollup(folder)["Pss"]
    return found


def rollup(folder: Path) -> dict[str, int]:
    """Return `smaps_rollup` of a process folder under /proc, in bytes."""
    lines = (folder / "smaps_rollup").read_text().splitlines()[1:]
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in (line.split() for line in lines)}


def by_role(groups: Mapping[str, str], read: Callable[[str], float]) -> dict[str, float]:
    """Return the sum of a figure of containers by role; one that is gone counts nothing."""
    found = dict.fromkeys(map(role, groups), 0.0)
    for who, container in groups.items():
        with contextlib.suppress(OSError):
            found[role(who)] += read(container)
    return found


def container_cpu(container: str) -> float:
    """Return the CPU seconds of a container."""
    old = _control("cpuacct", container) / "cpuacct.usage"
    if old.is_file():
        return int(old.read_text()) / 1e9
    return _pairs(_control("", container) / "cpu.stat")["usage_usec"] / 1e6


def container_memory(container: str) -> float:
    """Return the bytes that a container is charged for, less files that nobody looked at lately, as `docker stats`."""
    folder = _control("memory", container)
    old = folder / "memory.usage_in_bytes"
    if old.is_file():
        return int(old.read_text()) - _pairs(folder / "memory.stat")["total_inactive_file"]
    folder = _control("", container)
    return int((folder / "memory.current").read_text()) - _pairs(folder / "memory.stat")["inactive_file"]


def _control(controller: str, container: str) -> Path:
    root = Path("/sys/fs/cgroup") / controller
    named = root / "docker" / container
    return named if named.is_dir() else root / "system.slice" / f"docker-{container}.scope"


def _pairs(file: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in file.read_text().splitlines())}


@contextlib.contextmanager
def idling() -> Iterator[dict[int, str]]:
    """Start a launcher and a SuperNode that wait for peers that are not there; yield their process groups by role."""
    from consortia.common.pki import make_authority, write_node_key, write_server
    from consortia.engines.control import flower_environment

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_server(folder, make_authority("idle", 1), ("localhost", "127.0.0.1"), 1)
        key, _ = write_node_key(folder, "node")
        (folder / "secret").write_bytes(bytes(32))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        secret = ("--superexec-auth-secret-file", "secret", "--root-certificates", "ca.crt")
        certificate = ("--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key")
        commands = {
            "launcher": ("--runtime-api-address", "127.0.0.1:9", *secret),
            "supernode": (
                *("--superlink", "127.0.0.1:9", "--isolation", "process", *secret, *certificate),
                *("--auth-supernode-private-key", str(key), "--host", "127.0.0.1", "--port", port),
            ),
        }
        environment = flower_environment(folder)
        started = [
            subprocess.Popen(
                [sys.executable, "-P", "-m", f"consortia.deploy.{who}", *arguments],
                cwd=folder,
                env=environment,
                start_new_session=True,
                stderr=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            for who, arguments in commands.items()
        ]
        try:
            yield dict(zip((process.pid for process in started), commands, strict=True))
        finally:
            for process in started:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def settled(groups: Mapping[int, str]) -> dict[str, float]:
    """Return the MiB (PSS) of processes by role, once they have imported all that they import: they grow no more."""
    before: dict[str, float] = {}
    while True:
        time.sleep(_STILL_SECONDS)
        now = {who: size / 2**20 for who, size in pss_of_groups(groups).items()}
        if all(now[who] > _IMPORTED_MIB and now[who] - before.get(who, 0.0) < 1.0 for who in now):
            return now
        before = now


def libraries(groups: Mapping[int, str], role: str) -> set[str]:
    """Return the names of the binary files that processes of a role have mapped."""
    texts = [(folder / "maps").read_text() for who, folder, _ in _of_groups(groups) if who == role]
    return {Path(line.split()[-1]).name for text in texts for line in text.splitlines() if ".so" in line}
