"""A real SuperLink and real SuperNodes: other processes, TLS, keys, bytes on the wire, and the same model."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from own_homes import own_homes

from consortia.engines import embedded
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare

pytestmark = pytest.mark.end_to_end

ROUNDS = 2


def test_children_end_when_the_command_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from consortia.engines.flower import spawn\n"
        "child = spawn(['sleep', '300'], dict(os.environ), Path('.'), Path('log'))\n"
        "print(child.pid, flush=True); time.sleep(300)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while time.monotonic() < end and _alive(child):
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    """Whether the process runs; one that ended and is not yet collected does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def _loopback_bytes() -> int:
    (line,) = [x for x in Path("/proc/net/dev").read_text().splitlines() if x.strip().startswith("lo:")]
    return int(line.split(":")[1].split()[0])


def _probe(folder: Path, seen: dict[str, Any], stop: threading.Event) -> None:
    """Look at the port of the running SuperLink from outside, with and without the run's own authority."""
    while not stop.is_set():
        file, ca = folder / "flower" / "processes.json", folder / "flower" / "pki" / "ca.crt"
        if file.is_file() and file.stat().st_size:
            port = json.loads(file.read_text())["port"]
            trusted = ssl.create_default_context(cafile=str(ca))
            with (
                socket.create_connection(("127.0.0.1", port), 5) as raw,
                trusted.wrap_socket(raw, server_hostname="localhost") as secured,
            ):
                seen["tls"] = secured.version()
            try:
                with socket.create_connection(("127.0.0.1", port), 5) as raw:
                    ssl.create_default_context().wrap_socket(raw, server_hostname="localhost")
            except ssl.SSLCertVerificationError:
                seen["foreign authority"] = "refused"
            with socket.create_connection(("127.0.0.1", port), 5) as plain:
                plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                plain.settimeout(5)
                try:
                    seen["plain"] = plain.recv(64)
                except OSError:
                    seen["plain"] = b""
            return
        time.sleep(0.1)


def _model(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load((folder / "model" / "linear.safetensors").read_bytes())


def test_both_engines_give_the_same_non_private_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes = tmp_path / "homes"
    # The same split key as the simulation below, so that the same rows train.
    names = own_homes("linear", homes, monkeypatch, split_seed=5, rounds=ROUNDS, seed=5)

    simulated = Options(scenario="linear", rounds=ROUNDS, seed=5, out=tmp_path / "simulated")
    first = execute(prepare(simulated), simulated)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the embedded grid was used")

    monkeypatch.setattr(embedded.EmbeddedGrid, "__init__", refuse)
    deployed = Options(scenario="linear", rounds=ROUNDS, seed=5, engine="flower", out=tmp_path / "deployed")
    job = prepare(deployed)
    seen: dict[str, Any] = {}
    stop = threading.Event()
    probe = threading.Thread(target=_probe, args=(job.folder, seen, stop))
    before = _loopback_bytes()
    probe.start()
    try:
        second = execute(job, deployed)
    finally:
        stop.set()
        probe.join()

    assert second.result["status"] == "completed"
    left, right = _model(first.job.folder), _model(second.job.folder)
    assert set(left) == set(right)
    assert all(torch.equal(left[name], right[name]) for name in left)

    # Other processes: one per message and participant, none of them this one.
    pids = [
        json.loads(line)["process"]
        for name in names
        for line in (homes / name / "runs" / job.run_id / "training.jsonl").read_text().splitlines()
    ]
    assert len(pids) == len(set(pids)) == ROUNDS * len(names)
    assert os.getpid() not in pids

    assert seen["tls"] in {"TLSv1.2", "TLSv1.3"}
    assert seen["foreign authority"] == "refused"
    assert not seen["plain"].startswith(b"HTTP/1.1 200")
    envelopes = sum(
        participant["bytes"]["sent"] + participant["bytes"]["received"]
        for participant in second.result["participants"].values()
    )
    assert _loopback_bytes() - before > envelopes > 0

    # Released values only: nothing of a receipt is in the coordinator's record, and the receipts are at home.
    for name, participant in second.result["participants"].items():
        assert participant["metrics"] == {}
        assert participant["rows"] is None
        assert (homes / name / "runs" / job.run_id / "receipt.json").is_file()
    assert second.result["observer"] == "coordinator"
    # Nothing is left running, and the keys are gone.
    for pid in json.loads((job.folder / "flower" / "processes.json").read_text())["pids"].values():
        assert not Path(f"/proc/{pid}").exists()
    assert not (job.folder / "flower" / "pki").exists()
