"""What many participants on one machine cost: seconds, CPU seconds and memory over their number.

    python benchmarks/many.py processes [--sizes 6 12 25 50 100] [--rounds 5] [--out FILE.jsonl]
    python benchmarks/many.py containers [--sizes 6 40] [--rounds 20] [--out FILE.jsonl]
    python benchmarks/many.py idle [--out FILE.jsonl]
    python benchmarks/many.py table FILE.jsonl

The scenario is `cross-industry-network` with each line of its roster as a `[[crowd]]`. *processes*: real Flower
processes of `consortia run --engine flower`, forked from one that has imported everything. *containers*: `make up` in a
copy of this repository, on a Docker engine with cgroups; nothing is shared but the files of an image. *idle*: one
SuperNode and one launcher as processes of their own, before any message.

The first round is left out of seconds and CPU: libraries are loaded and σ is solved there. CPU seconds are user and
system, of all processes of the federation; *each* is of a participant's own SuperNode and launcher. Memory of processes
is the proportional share (PSS), in the middle of the run, so that what they share counts once; of containers it is what
the kernel charges them, without files that it may forget at once, at its highest at a round's end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import many_meters
import numpy as np
import tomli_w

from consortia.cli.budget import init
from consortia.deploy.kubernetes.cluster import services_of
from consortia.engines.demonstration import demo_policy_file
from consortia.engines.flower import Federation
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.terms.scenario import find_scenario, load_scenario

OF = "cross-industry-network"
_DEADLINE = 3600.0
_BUILT_FROM = ("Makefile", "docker-compose.yml", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
_FOLDERS = ("platform", "strategies", "clients", "privacy", "wheels")
#: Services that `up` starts only where somebody asks for them.
_PROFILES = ("door", "dashboard")
ROOT = Path(__file__).resolve().parents[1]


def lay_out(folder: Path, size: int, rounds: int) -> Path:
    """Write the scenario of that many participants and its policies; return its file."""
    scenario = tomllib.loads(find_scenario(OF).read_text())
    lines = scenario.pop("roster")
    counts = [size // len(lines) + (number < size % len(lines)) for number in range(len(lines))]
    scenario["crowd"] = [{**line, "count": count} for line, count in zip(lines, counts, strict=True) if count]
    scenario.update(name=f"many-{size}", title=f"{size} participants of three industries")
    scenario["contract"].update(rounds=rounds, round={"deadline_seconds": _DEADLINE})
    shutil.copytree(demo_policy_file(OF, "bank-a").parent, folder / "policies" / scenario["name"])
    file = folder / f"{scenario['name']}.toml"
    file.write_text(tomli_w.dumps(scenario))
    return file


class Watch:
    """Takes a measurement at the end of each round, while a federation runs.

    Parameters
    ----------
    events : callable
        Returns the file of the run's events once there is one.
    cpu : callable
        Returns CPU seconds so far, by role.
    memory : callable
        Returns bytes by role; called once a round, or once in all where it is dear.
    """

    def __init__(
        self,
        events: Callable[[], Path | None],
        cpu: Callable[[], Mapping[str, float]],
        memory: Callable[[], Mapping[str, float]],
        *,
        memory_once: int = 0,
    ) -> None:
        self._events, self._cpu, self._memory, self._once = events, cpu, memory, memory_once
        self.cpu: list[Mapping[str, float]] = []
        self.memory: list[Mapping[str, float]] = []
        self.load: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            file = self._events()
            done = file.read_text().count('"event": "round"') if file and file.is_file() else 0
            if done > len(self.cpu):
                self.cpu += [self._cpu()] * (done - len(self.cpu))
                self.load.append(os.getloadavg()[0])
                if self._once in {0, done}:
                    self.memory.append(self._memory())


def summary(kind: str, size: int, folder: Path, watch: Watch) -> dict[str, Any]:
    """Return what one run says, as a line of the file."""
    record = json.loads((folder / "coordinator.json").read_text())
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    rounds = [event for event in events if event["event"] == "round"]
    by_round: dict[int, int] = {}
    for event in rounds:  # each industry has rounds of its own
        by_round[event["round"]] = by_round.get(event["round"], 0) + len(event["replies"])
    seconds = [line["seconds"] for line in record["history"]][1:]
    steps = [
        {role: after[role] - before[role] for role in after}
        for before, after in zip(watch.cpu, watch.cpu[1:], strict=False)
    ]
    cpu = {role: statistics.mean(step[role] for step in steps) for role in steps[0]} if steps else {}
    most = max(watch.memory, key=lambda found: sum(found.values()), default={})
    return {
        "kind": kind,
        "size": size,
        "status": record["status"],
        "rounds": len(by_round),
        "complete": sum(replies == size for replies in by_round.values()),
        "failures": sum(len(one["failures"]) for one in record["participants"].values()),
        "seconds": statistics.median(seconds) if seconds else None,
        "cpu_all": sum(cpu.values()),
        "cpu_each": (cpu.get("supernode", 0.0) + cpu.get("launcher", 0.0)) / size,
        "cpu_by_role": cpu,
        "memory_gib": sum(most.values()) / 2**30,
        "memory_mib_each": {role: most.get(role, 0.0) / size / 2**20 for role in ("supernode", "launcher")},
        "memory_by_role": {role: value / 2**20 for role, value in most.items()},
        "load": statistics.median(watch.load) if watch.load else None,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def processes(size: int, rounds: int) -> dict[str, Any]:
    """Run that many participants as Flower processes."""
    made: list[Watch] = []

    class Measured(Federation):
        def submit(self) -> None:
            groups = {process.pid: many_meters.role(who) for who, process in self.processes.items()}
            events = self.job.folder / "events.jsonl"
            made.append(
                Watch(
                    lambda: events,
                    lambda: many_meters.cpu_of_groups(groups),
                    lambda: many_meters.pss_of_groups(groups),
                    memory_once=max(2, rounds // 2),
                )
            )
            super().submit()

        def __exit__(self, *error: object) -> None:
            for watch in made:
                watch.stop()
            super().__exit__(*error)

    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch("consortia.engines.flower.Federation", Measured),
        mock.patch("consortia.common.console.out"),
        mock.patch.dict(os.environ, CONSORTIA_HOME=f"{name}/homes"),
    ):
        scenario = str(lay_out(Path(name), size, rounds))
        init("", scenario=scenario)
        options = Options(scenario=scenario, engine="flower", out=Path(name) / "runs")
        job = prepare(options)
        execute(job, options)
        return summary("processes", size, job.folder, made[0])


def containers(size: int, rounds: int) -> dict[str, Any]:
    """Run that many participants as containers of one compose project."""
    sys.path.append(str(ROOT / "tests" / "helpers"))
    from federation import Federation as Project

    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "repository"
        (copy / "scenarios").mkdir(parents=True)
        for source in _BUILT_FROM:
            shutil.copyfile(ROOT / source, copy / source)
        for source in _FOLDERS:
            shutil.copytree(ROOT / source, copy / source)
        file = lay_out(copy / "scenarios", size, rounds)
        subprocess.run([sys.executable, "-P", "-m", "consortia.cli", "compose", str(file)], check=True)
        project = Project.of(load_scenario(str(file)).name, Path(name))
        project.folder = copy
        project.env |= {"CONSORTIA_TAG": f"many-{os.getpid()}", "COMPOSE_PARALLEL_LIMIT": "8"}
        groups: dict[str, str] = {}

        def of_containers(read: Callable[[str], float]) -> dict[str, float]:
            if not groups:
                groups.update({who: one["Id"] for who, one in project.containers().items()})
            return many_meters.by_role(groups, read)

        watch = Watch(
            lambda: next((Path(name) / "runs").glob("*/events.jsonl"), None),
            lambda: of_containers(many_meters.container_cpu),
            lambda: of_containers(many_meters.container_memory),
        )
        started = time.time()
        try:
            with Path(f"many-{size}.log").open("w") as log:
                where = {"cwd": copy, "env": project.env, "stdout": log, "stderr": log}
                subprocess.run(["docker", "compose", "build"], check=True, **where)
                # Participants that are there already: as between organisations, and nobody waits for a start.
                services = [
                    name for name in services_of(file.with_suffix(".compose.yml").read_text()) if name != "runner"
                ]
                up = ["docker", "compose", "up", "--detach", "--no-build"]
                subprocess.run([*up, *(name for name in services if name not in _PROFILES)], check=True, **where)
                subprocess.run(["make", "up"], check=False, **where)
            watch.stop()
            folder = next((Path(name) / "runs").glob("*/coordinator.json")).parent
            found = summary("containers", size, folder, watch)
            return {**found, "wall": round(time.time() - started)}
        finally:
            project.down()


def table(lines: list[dict[str, Any]]) -> None:
    """Print the curve and its fits."""
    print("| as | participants | complete rounds | s a round | CPU s a round | of it each participant | GiB | load |")
    print("|---|---|---|---|---|---|---|---|")
    for line in lines:
        print(
            f"| {line['kind']} | {line['size']} | {line['complete']} of {line['rounds']} | {line['seconds']:.1f} | "
            f"{line['cpu_all']:.1f} | {line['cpu_each']:.2f} | {line['memory_gib']:.1f} | {line['load']:.0f} |"
        )
    for kind in sorted({line["kind"] for line in lines}):
        own = [line for line in lines if line["kind"] == kind]
        if len(own) < 3:
            continue
        size = np.array([line["size"] for line in own], float)
        for what in ("seconds", "cpu_all", "memory_gib"):
            value = np.array([line[what] for line in own])
            slope, start = np.polyfit(size, value, 1)
            exponent = np.polyfit(np.log(size), np.log(value), 1)[0]
            print(f"{kind}: {what} = {start:.3g} + {slope:.3g} N; N to the power of {exponent:.2f}")


def main() -> int:
    """Measure, or print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("processes", "containers", "idle", "table"))
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.what == "table":
        table([json.loads(line) for line in options.file.read_text().splitlines()])
        return 0
    if options.what == "idle":
        with many_meters.idling() as groups:
            found = [{"kind": "idle", **many_meters.settled(groups)}]
    else:
        default, rounds = ([6, 12, 25, 50, 100], 5) if options.what == "processes" else ([6, 40], 20)
        measure = processes if options.what == "processes" else containers
        found = (measure(size, options.rounds or rounds) for size in options.sizes or default)  # type: ignore[assignment]
    for line in found:
        print(json.dumps(line), flush=True)
        if options.out:
            with options.out.open("a") as out:
                out.write(json.dumps(line) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
