"""Programs that are forked from one process share its imports, and nothing else."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from consortia.engines.control import flower_environment
from consortia.engines.nursery import Nursery

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
full_disk = importlib.import_module("fault_disk").full_disk

pytestmark = pytest.mark.end_to_end  # each imports torch in a process of its own

DRAWS = """
import json, os, random, sys
import numpy as np, torch
def main():
    sys.stderr.write("said")
    print(json.dumps([random.random(), np.random.rand(), torch.rand(1).item(), sys.argv, os.environ["WHO"], os.getcwd(),
                      os.getsid(0) == os.getpid(), len(os.listdir("/proc/self/fd"))]))
    return 5
"""
SERVER = """
import sys
from consortia.deploy import nursery
nursery.PROGRAMS = {"draws": ("draws", "main")}
sys.exit(nursery.main([]))
"""


def test_each_child_has_its_own_randomness_arguments_folder_and_files(tmp_path: Path) -> None:
    (tmp_path / "draws.py").write_text(DRAWS)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    lines = []
    for who in "ab":
        (tmp_path / who).mkdir()
        files = {"out": str(tmp_path / f"{who}.out"), "err": str(tmp_path / f"{who}.err")}
        asked = {"program": "draws", "arguments": [who], "environment": {"WHO": who}, "folder": str(tmp_path / who)}
        lines.append(json.dumps(asked | files))
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write("\n".join(lines) + "\n")
        server.stdin.flush()
        told = [json.loads(server.stdout.readline()) for _ in range(4)]
        server.stdin.close()
    assert server.returncode == 0
    started = {line["pid"] for line in told if "started" in line}
    assert len(started) == 2
    assert {line["pid"]: line["status"] for line in told if "status" in line} == dict.fromkeys(started, 5)
    first, second = (json.loads((tmp_path / f"{who}.out").read_text()) for who in "ab")
    assert all(mine != its for mine, its in zip(first[:3], second[:3], strict=True))
    for who, found in zip("ab", (first, second), strict=True):
        assert found[3:7] == [["draws", who], who, str(tmp_path / who), True]
        assert found[7] == 4  # standard ones, and the listed folder
        assert (tmp_path / f"{who}.err").read_text() == "said"


def test_the_engine_starts_waits_for_and_ends_programs(tmp_path: Path) -> None:
    environment = flower_environment(tmp_path)
    nursery = Nursery({"linear"}, environment, tmp_path / "nursery.log")
    done = nursery.run("flwr", ["--version"], environment, tmp_path, 120)
    assert done is not None, (tmp_path / "nursery.log").read_text()
    assert (done.returncode, "1.41" in done.stdout) == (0, True)
    if os.geteuid() == 0:  # who may mount a small file system
        full = tmp_path / "full"
        with full_disk(full):
            again = nursery.run("flwr", ["--version"], environment, full, 120)
        assert again is not None
        assert again.stdout == done.stdout  # not an empty answer
    log, secret = tmp_path / "launcher.log", tmp_path / "secret"
    secret.write_bytes(bytes(32))
    where = ("--runtime-api-address", "127.0.0.1:9", "--superexec-auth-secret-file", str(secret))
    refused = nursery.start("consortia.deploy.launcher", where, environment, tmp_path, log)
    assert refused is not None
    assert refused.wait(60) == 2
    assert "wanted --root-certificates" in log.read_text()
    alive = [
        nursery.start("consortia.deploy.launcher", (*where, "--insecure"), environment, tmp_path, log) for _ in "ab"
    ]
    assert alive[0] is not None
    assert alive[1] is not None
    with pytest.raises(subprocess.TimeoutExpired):
        alive[0].wait(0.1)
    alive[0].kill()
    assert alive[0].wait(60) == -9
    assert alive[1].poll() is None
    nursery.close()
    assert alive[1].wait(60) == -9
    end = time.monotonic() + 60
    while Path(f"/proc/{alive[1].pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{alive[1].pid}").exists()
    assert nursery.start("consortia.deploy.launcher", where, environment, tmp_path, log) is None
    assert nursery.run("flwr", ["--version"], environment, tmp_path, 120) is None
