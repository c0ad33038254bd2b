"""A fresh process for each message: its own randomness, its own end, and nothing left for the next."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.end_to_end  # each imports torch in a process of its own

#: The courier asks, and prints what came as JSON; the zygote's `answer` is put in.
SCRIPT = """
import json, os, random, signal, sys, time
os.environ.update(OMP_NUM_THREADS="1")
import numpy as np, torch
from consortia.deploy import forks
from privacy.errors import PlanError
from privacy.randomness import fresh_generator
inherited = fresh_generator()
state = []

{answer}

def courier(asker):
    said = []
    for asked in {questions!r}:
        try:
            said.append(asker.ask(forks.Question(asked.encode(), {seconds}), lambda: {waiting}, .05).decode())
        except forks.ChildEndedError as error:
            said.append("ended")
    print(json.dumps([os.getppid(), said]))
    return 7

{before}
sys.exit(forks.Zygote(answer).serve(courier))
"""

DRAWS = """
def answer(data):
    try:
        torch.rand(1, generator=inherited); inherited.check(); kept = "used"
    except PlanError:
        kept = "refused"
    state.append(1)
    return json.dumps({"pid": os.getpid(), "torch": torch.rand(1).item(), "numpy": np.random.rand(),
        "random": random.random(), "noise": torch.randn(1, generator=fresh_generator()).item(),
        "inherited": kept, "state": len(state), "size": len(data)}).encode()
"""


def run(answer: str, questions: str, *, seconds: float = 30, waiting: str = "True", before: str = "") -> Any:
    code = SCRIPT.replace("{answer}", answer).replace("{before}", before).replace("{questions!r}", questions)
    code = code.replace("{seconds}", str(seconds)).replace("{waiting}", waiting)
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, done.stdout, done.stderr


def distinct(answers: list[dict[str, Any]]) -> dict[str, int]:
    return {key: len({answer[key] for answer in answers}) for key in ("pid", "torch", "numpy", "random", "noise")}


def test_every_message_has_a_process_and_randomness_of_its_own() -> None:
    status, printed, _ = run(DRAWS, "'a', 'b' * 3_000_000, 'c'")
    assert status == 7  # the courier's
    answers = [json.loads(text) for text in json.loads(printed)[1]]
    assert set(distinct(answers).values()) == {3}
    assert {answer["inherited"] for answer in answers} == {"refused"}
    assert {answer["state"] for answer in answers} == {1}  # nothing of one message is left for the next
    assert [answer["size"] for answer in answers] == [1, 3_000_000, 1]


def test_without_fresh_entropy_the_draws_repeat() -> None:
    """The broken variant: the test above would notice it."""
    _, printed, _ = run(DRAWS, "'a', 'b', 'c'", before="forks.fresh_globals = lambda: None")
    found = distinct([json.loads(text) for text in json.loads(printed)[1]])
    assert (found["torch"], found["numpy"]) == (1, 1)  # Python's own `random` is reseeded by Python
    assert found["noise"] == 3  # the generator of DP noise does not depend on it


def test_a_process_that_dies_or_hangs_is_noticed_at_once_and_the_next_one_works() -> None:
    answer = """
def answer(data):
    if data == b"die": os.kill(os.getpid(), signal.SIGKILL)
    if data == b"raise": raise ValueError("a value of a row")
    if data == b"hang": time.sleep(600)  # who is waited for says so
    return data
"""
    status, printed, errors = run(answer, "'die', 'raise', 'hang', 'fine'", seconds=1)
    assert status == 7
    said = json.loads(printed)[1]
    assert said == ["ended", "ended", "ended", "fine"]
    assert "ValueError" in errors
    assert "a value of a row" not in errors


def test_a_process_that_nobody_waits_for_is_left() -> None:
    _, printed, _ = run("def answer(data): time.sleep(600)", "'x',", waiting="False")
    assert json.loads(printed)[1] == ["ended"]


def test_a_second_thread_before_the_fork_is_refused() -> None:
    before = "import threading; threading.Thread(target=time.sleep, args=(5,), daemon=True).start()"
    status, printed, errors = run("def answer(data): return data", "'x',", before=before)
    assert (status, printed) == (1, "")
    assert "wanted one thread before a fork, got 2" in errors
