"""The fault table's hosts and networks of containers: no CPU time, a slow or broken link, a restart, another clock.

The kernel's own limits (`docker update --cpus`), the engine's own networks, and Debian's libfaketime; a slow link is a
TCP relay between a SuperNode and the proxy, so it needs no `tc netem`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import faults
from fault_containers import Fault
from federation import TAG, Federation, docker

_LONGEST_ROUND = 900.0
#: Relays to an address with a delay each way and a rate in bytes a second: `python -c RELAY HOST PORT SECONDS RATE`.
_RELAY = """
import asyncio, sys
host, port, delay, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
async def one_way(reader, writer):
    queue = asyncio.Queue()
    async def take():
        while data := await reader.read(4096):
            await asyncio.sleep(len(data) / rate)
            queue.put_nowait((asyncio.get_running_loop().time() + delay, data))
        queue.put_nowait((0.0, b""))
    async def give():
        while True:
            due, data = await queue.get()
            if not data:
                break
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            writer.write(data)
            await writer.drain()
        writer.close()
    await asyncio.gather(take(), give(), return_exceptions=True)
async def relay(reader, writer):
    there = await asyncio.open_connection(host, port)
    await asyncio.gather(one_way(reader, there[1]), one_way(there[0], writer))
async def main():
    server = await asyncio.start_server(relay, "0.0.0.0", 8000)
    await server.serve_forever()
asyncio.run(main())
"""


def _done(*arguments: str) -> str:
    done = docker(*arguments)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)[:200]}: {done.stderr[-500:]}")
    return done.stdout


def _two_rounds(federation: Federation) -> None:
    """Wait until the run has committed the round under way and one more, or has ended."""
    folder = max((federation.own / "runs").glob("faults-*"), key=lambda path: path.name)
    wanted, end = len(faults.rounds_done(folder)) + 2, time.monotonic() + _LONGEST_ROUND
    while len(faults.rounds_done(folder)) < wanted and time.monotonic() < end:
        if federation.containers()["runner"]["State"]["Status"] != "running":
            return
        time.sleep(0.5)


def starve(services: Sequence[str], cpus: float) -> Fault:
    """Leave services so much of a core until two more rounds are committed."""

    def fault(federation: Federation) -> None:
        found = federation.containers()
        for service in services:
            _done("update", "--cpus", str(cpus), found[service]["Id"])
        _two_rounds(federation)
        for service in services:
            _done("update", "--cpus", str(found[service]["HostConfig"]["NanoCpus"] / 1e9), found[service]["Id"])

    return fault


def slow_link(name: str, delay: float, rate: int) -> Fault:
    """Put a relay between a SuperNode and the proxy until two more rounds are committed.

    Parameters
    ----------
    delay : float
        Seconds, each way.
    rate : int
        Bytes a second, of each connection and each way.
    """

    def fault(federation: Federation) -> None:
        project, proxy = federation.env["COMPOSE_PROJECT_NAME"], federation.containers()["proxy"]
        coordinator, fleet, relay = f"{project}_coordinator", f"{project}_{name}-fleet", f"{project}-relay"
        address = proxy["NetworkSettings"]["Networks"][coordinator]["IPAddress"]
        words = (f"consortia-participant:{TAG}", "python", "-c", _RELAY, address, "8000", str(delay), str(rate))
        label = f"com.docker.compose.project={project}"
        _done(
            "run", "--detach", "--name", relay, "--label", label, "--network", coordinator, "--no-healthcheck", *words
        )
        _done("network", "disconnect", fleet, proxy["Id"])
        _done("network", "connect", "--alias", "proxy", fleet, relay)
        _two_rounds(federation)
        _done("rm", "--force", relay)
        _done("network", "connect", "--alias", "proxy", fleet, proxy["Id"])

    return fault


def cut_off(name: str, seconds: float) -> Fault:
    """Take the way from a SuperNode to the proxy for so many seconds."""

    def fault(federation: Federation) -> None:
        fleet = f"{federation.env['COMPOSE_PROJECT_NAME']}_{name}-fleet"
        proxy = federation.containers()["proxy"]["Id"]
        _done("network", "disconnect", fleet, proxy)
        time.sleep(seconds)
        _done("network", "connect", "--alias", "proxy", fleet, proxy)

    return fault


def restart_host(federation: Federation) -> None:
    """Stop every container, and start those that an engine starts again after a reboot, in no order."""
    running = {k: item for k, item in federation.containers().items() if item["State"]["Status"] == "running"}
    _done("stop", "--time", "1", *(item["Id"] for item in running.values()))
    again = [item["Id"] for item in running.values() if item["HostConfig"]["RestartPolicy"]["Name"] not in {"", "no"}]
    _done("start", *again)


def another_clock(federation: Federation, name: str, offset: str) -> None:
    """Let a participant's SuperNode and launcher live in another time (`+10m`), before the federation is up."""
    library = federation.own / "libfaketime.so.1"
    shutil.copyfile(faults.OTHER_CLOCK, library)
    library.chmod(0o755)
    file = next((federation.folder / "scenarios").glob("faults.compose.yml"))
    text = file.read_text(encoding="utf-8")
    for service in (name, f"{name}-app"):
        head, block = text.split(f"\n  {service}:\n", 1)
        faked = f"LD_PRELOAD: {library}\n      FAKETIME: '{offset}'\n      FAKETIME_DONT_FAKE_MONOTONIC: '1'\n"
        block = block.replace("    environment:\n", f"    environment:\n      {faked}", 1)
        block = block.replace("    volumes:\n", f"    volumes:\n      - {library}:{library}:ro\n", 1)
        text = f"{head}\n  {service}:\n{block}"
    file.write_text(text, encoding="utf-8")


def own(folder: Path, user: int) -> None:
    """Give a folder and what is in it to the user of the containers."""
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, user, user)
