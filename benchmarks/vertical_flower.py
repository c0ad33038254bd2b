"""A vertical run of many persons on real Flower processes: seconds and bytes of every step, memory of every process.

    python benchmarks/vertical_flower.py [--rows N] [--deadline SECONDS] [--folder DIR]

The scenario is that of `vertical_size.py`. Memory is read every second: the largest process of each service, and the
service's share of pages summed over its processes (PSS), which is what a container's limit is about.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path

from typer.testing import CliRunner
from vertical_size import write

from consortia.cli import build_app
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare


class Memory(threading.Thread):
    """Watches the processes of a run until `stop` is called; megabytes by service."""

    def __init__(self, pids: Path) -> None:
        super().__init__(daemon=True)
        self._pids = pids
        self._over = threading.Event()
        self.largest: dict[str, float] = defaultdict(float)
        self.together: dict[str, float] = defaultdict(float)

    def run(self) -> None:
        """Look until told to stop."""
        while not self._over.wait(1.0):
            if self._pids.is_file():
                self._look(json.loads(self._pids.read_text(encoding="utf-8"))["pids"])

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self.join()

    def _look(self, services: dict[str, int]) -> None:
        children = defaultdict(list)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (found := _fields(entry / "status", "PPid")):
                children[int(found["PPid"])].append(int(entry.name))
        for name, pid in services.items():
            family = [pid]
            for member in family:
                family += children[member]
            shares = 0.0
            for member in family:
                high = _fields(Path(f"/proc/{member}/status"), "VmHWM")
                share = _fields(Path(f"/proc/{member}/smaps_rollup"), "Pss")
                self.largest[name] = max(self.largest[name], float(high.get("VmHWM", 0)) / 1024)
                shares += float(share.get("Pss", 0)) / 1024
            self.together[name] = max(self.together[name], shares)


def _fields(file: Path, *names: str) -> dict[str, str]:
    """Return numbers of a file in /proc; nothing of a process that has ended."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":")[::2] for line in lines)
    return {key: value.split()[0] for key, value in pairs if key in names and value.split()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--deadline", type=float, default=3600.0)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp())).resolve()
    os.environ["CONSORTIA_HOME"] = str(folder / "homes")
    file = write(options.rows, folder, ["hospital", "factory"], options.deadline)
    made = CliRunner().invoke(build_app(), ["budget", "init", "--scenario", str(file)])
    if made.exit_code:
        sys.exit(made.output)
    asked = Options(scenario=str(file), engine="flower", out=folder / "runs")
    job = prepare(asked)
    memory = Memory(job.folder / "flower" / "processes.json")
    memory.start()
    try:
        execute(job, asked)
    finally:
        memory.stop()
    record = json.loads((job.folder / "coordinator.json").read_text(encoding="utf-8"))
    for line in record["history"]:
        print(f"{line['step']}: {line['seconds']:.0f} s, replies of {', '.join(line['replies'])}")
    for name, participant in record["participants"].items():
        received, sent = (participant["bytes"][way] / 1e6 for way in ("received", "sent"))
        print(f"{name}: {received:.1f} MB received, {sent:.1f} MB sent")
    for name, megabytes in memory.largest.items():
        print(f"{name}: largest process {megabytes:.0f} MB, all its processes {memory.together[name]:.0f} MB")
    receipt = json.loads((job.homes["bank"].folder / "runs" / job.run_id / "receipt.json").read_text(encoding="utf-8"))
    print(json.dumps({"seconds": record["seconds"], **{key: receipt[key] for key in ("rows", "matched", "metrics")}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
