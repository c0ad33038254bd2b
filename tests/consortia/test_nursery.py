"""Programs that are forked from one process share its imports, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from consortia.common.errors import RunFailedError
from consortia.engines.control import flower_environment
from consortia.engines.flower import Federation, spawn
from consortia.engines.nursery import Nursery
from consortia.engines.options import Options
from consortia.engines.runner import prepare

imports = pytest.mark.end_to_end  # torch, in a process of its own

DRAWS = """
import json, os, random, sys
import numpy as np, torch
def main():
    sys.stderr.write("said\\n")
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


@imports
def test_each_child_has_its_own_randomness_arguments_folder_and_files(tmp_path: Path) -> None:
    (tmp_path / "draws.py").write_text(DRAWS)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    lines = []
    for who in "ab":
        (tmp_path / who).mkdir()
        files = {"log": str(tmp_path / f"{who}.log")}
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
    (said, first), (also, second) = (
        (said, json.loads(found))
        for said, found in ((tmp_path / f"{who}.log").read_text().splitlines() for who in "ab")
    )
    assert said == also == "said"
    assert all(mine != its for mine, its in zip(first[:3], second[:3], strict=True))
    for who, found in zip("ab", (first, second), strict=True):
        assert found[3:7] == [["draws", who], who, str(tmp_path / who), True]
        assert found[7] == 4  # standard ones, and the listed folder


@imports
def test_the_engine_starts_waits_for_and_ends_programs(tmp_path: Path) -> None:
    environment = flower_environment(tmp_path)
    nursery = Nursery({"linear"}, environment, tmp_path / "nursery.log")
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
    os.kill(nursery.pid, signal.SIGKILL)
    assert alive[1].wait(60) == -9
    end = time.monotonic() + 60
    while Path(f"/proc/{alive[1].pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{alive[1].pid}").exists()
    assert nursery.start("consortia.deploy.launcher", where, environment, tmp_path, log) is None
    nursery.close()
    assert nursery.start("consortia.deploy.launcher", where, environment, tmp_path, log) is None


def test_a_nursery_that_is_killed_or_stopped_before_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = flower_environment(tmp_path)

    def asked(nursery: Nursery) -> object:
        return nursery.start("flower-superlink", (), environment, tmp_path, tmp_path / "log")

    killed = Nursery({"linear"}, environment, tmp_path / "nursery.log")
    os.kill(killed.pid, signal.SIGKILL)
    assert asked(killed) is None  # the program is started without it
    killed.close()

    monkeypatch.setattr("consortia.engines.nursery._START_SECONDS", 0.3)
    stopped = Nursery({"linear"}, environment, tmp_path / "nursery.log")
    os.kill(stopped.pid, signal.SIGSTOP)
    with pytest.raises(RunFailedError, match=r"flower-superlink was not started within .*nursery\.log"):
        asked(stopped)
    assert asked(stopped) is None
    stopped.close()

    monkeypatch.setattr("consortia.engines.nursery._END_SECONDS", 0.3)
    closed = Nursery({"linear"}, environment, tmp_path / "nursery.log")
    os.kill(closed.pid, signal.SIGSTOP)
    closed.close()
    assert not Path(f"/proc/{closed.pid}").exists()


@pytest.mark.parametrize(
    ("who", "said"), [("superlink", "the SuperLink ended"), ("coordinator", "the ServerApp ended without a record")]
)
def test_a_run_whose_process_of_the_coordinator_is_killed_is_a_named_failure(
    who: str, said: str, tmp_path: Path
) -> None:
    job = prepare(Options(scenario="linear", out=tmp_path))
    with Federation(job) as federation:
        for name in ("superlink", "coordinator"):  # they only have to run; what they do has no part in this
            federation.processes[name] = spawn(["sleep", "300"], dict(os.environ), tmp_path, tmp_path / "log")
        pids = [process.pid for process in federation.processes.values()]
        federation.processes[who].kill()
        with pytest.raises(RunFailedError, match=f"{said}; see .*{who}.log"):
            federation.wait()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
