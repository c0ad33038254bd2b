"""Run by test_kills.py in a process of its own: participants that are killed at random while they answer.

Imports once, then forks one child per kill (single-threaded, so forking is safe). A child answers messages and
appends the SHA-256 of every reply that it hands out to an independent log, before handing out the next.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from consortia.deploy.launcher import warm
from consortia.messages.envelope import decode
from consortia.messages.request import Request
from consortia.participant.data import load_partitions
from consortia.participant.handle import handle
from consortia.participant.home import Home
from consortia.participant.training import make_plan
from consortia.terms.policy import check_contract, effective_budget, load_policy
from privacy.failpoints import listening

torch.set_num_threads(1)


def answer(messages: list[bytes], home: Home, received: Path, first: int = 1) -> None:
    """Answer every message from the `first`; log what the receiver got, or the code of a refusal."""
    for number, message in enumerate(messages[first - 1 :], start=first):
        reply = handle(message, home)
        header = decode(reply).header
        got = hashlib.sha256(reply).hexdigest() if header["status"] == "OK" else header["code"]
        with received.open("a") as log:
            log.write(f"{number} {got}\n")
            log.flush()
            os.fsync(log.fileno())


def last_round(received: Path) -> int:
    """The newest round that the receiver heard of; its log may end in half a line."""
    lines = received.read_text().split("\n")[:-1] if received.exists() else []
    return max((int(line.split()[0]) for line in lines), default=1)


def warm_up(message: bytes, home: Home) -> None:
    """Import all, solve sigma and read the rows once: kills hit training and storing. The parent trains nothing."""
    warm()
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
    # With a ledger folder there is a witness too, which a kill must not leave ahead of the ledger.
    home = Home(folder / name, name, simulation=True, ledger_folder=folder / name)
    received = folder / "received.txt"
    rng = random.Random(1)
    logging.disable(logging.WARNING)  # a refusal is in the receiver's log
    warm_up(messages[0], home)
    for _ in range(kills):
        first = max(1, last_round(received) - 2)  # what arrived last is asked again
        reached, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            with listening(lambda _place, tell=tell: os.write(tell, b".") and None):
                answer(messages, home, received, first)
            os._exit(0)
        os.close(tell)
        # A round passes nine places of the ledger: the kill hits any of them, or the training between, at any speed.
        for _ in range(rng.randint(1, 18)):
            if not os.read(reached, 1):
                break
        time.sleep(rng.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.close(reached)
        os.waitpid(pid, 0)
    last = last_round(received)
    answer(messages[: last + 10], home, received, max(1, last - 10))


main()
