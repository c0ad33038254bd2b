"""A real haproxy with the configuration of the images, in which addresses and paths are a test's."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from consortia.deploy import prepare

CONFIGURATION = Path(prepare.__file__).parent
#: Why a test is skipped, where it is.
MISSING = shutil.which("haproxy") is None
REASON = "haproxy is not installed here (Debian: apt-get install haproxy)"


def free_port() -> int:
    """Return a port of this host that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def haproxy(name: str, changes: dict[str, str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    """Run haproxy with haproxy.cfg or door.cfg, changed as a test needs it."""
    text = (CONFIGURATION / name).read_text(encoding="utf-8")
    for old, new in {**changes, "127.0.0.1:8001": f"127.0.0.1:{free_port()}"}.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / name).write_text(text, encoding="utf-8")
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            ["haproxy", "-db", "-f", str(folder / name)], env=os.environ | environment, stdout=log, stderr=log
        )
    try:
        yield
        assert process.poll() is None, (folder / f"{name}.log").read_text()
    finally:
        process.terminate()
        process.wait(20)


def in_front_of(superlink: int, keys: Path, port: int) -> dict[str, str]:
    """Return what differs from the image's haproxy.cfg before a SuperLink on this host."""
    return {"bind :8000": f"bind 127.0.0.1:{port}", "superlink:8000": f"127.0.0.1:{superlink}", "/keys/": f"{keys}/"}
