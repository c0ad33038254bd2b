"""Run by test_kills.py in a process of its own: participants that are killed at random while they answer.

Imports once, then forks one child per kill (single-threaded, so forking is safe). A child answers messages and
appends the SHA-256 of every reply that it hands out to an independent log, before handing out the next.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from consortia.home import Home
from consortia.participant import handle
from consortia.wire import decode

torch.set_num_threads(1)


def answer(messages: list[bytes], home: Home, received: Path) -> None:
    """Answer every message from the first; log what the receiver got."""
    for number, message in enumerate(messages, start=1):
        reply = handle(message, home)
        if decode(reply).header["status"] == "OK":
            with received.open("a") as log:
                log.write(f"{number} {hashlib.sha256(reply).hexdigest()}\n")
                log.flush()
                os.fsync(log.fileno())


def main() -> None:
    """Kill `kills` children, then let one finish."""
    folder, name, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    messages = [file.read_bytes() for file in sorted(folder.glob("message-*"))]
    home = Home(folder / name, name, simulation=True)
    received = folder / "received.txt"
    rng = random.Random(1)
    pid = os.fork()
    if pid == 0:  # a warm-up on a copy, so that lazy imports do not eat the first kills
        os._exit(0)
    os.waitpid(pid, 0)
    for _ in range(kills):
        pid = os.fork()
        if pid == 0:
            answer(messages, home, received)
            os._exit(0)
        time.sleep(rng.uniform(0.02, 0.6))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    answer(messages, home, received)


main()
