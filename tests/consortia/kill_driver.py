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
from consortia.local_training import load_partitions, make_plan
from consortia.participant import handle
from consortia.policy import check_contract, effective_budget, load_policy
from consortia.request import Request
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


def warm_up(message: bytes, home: Home) -> None:
    """Solve sigma and read the rows once, so that the kills hit training and storing. No training in the parent."""
    request = Request.parse(message)
    policy = load_policy(home.policy, simulation=True)
    terms = check_contract(policy, request.contract, request.industry, request.proposal)
    load_partitions(home, terms, request.proposal.dataset, request.contract, request.run_id)
    budget = effective_budget(policy, request.proposal, policy.budget.lifetime.budget())
    make_plan(request.contract, terms, request.proposal.dataset, request.run_id, budget)


def main() -> None:
    """Kill `kills` children, then let one finish."""
    folder, name, kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    messages = [file.read_bytes() for file in sorted(folder.glob("message-*"))]
    home = Home(folder / name, name, simulation=True)
    received = folder / "received.txt"
    rng = random.Random(1)
    warm_up(messages[0], home)
    for _ in range(kills):
        pid = os.fork()
        if pid == 0:
            answer(messages, home, received)
            os._exit(0)
        time.sleep(rng.uniform(0.02, 0.7))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    answer(messages, home, received)


main()
