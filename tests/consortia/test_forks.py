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
sys.exit(forks.Zygote(answer{more}).serve(courier))
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


def run(
    answer: str, questions: str, *, seconds: float = 30, waiting: str = "True", before: str = "", more: str = ""
) -> Any:
    code = SCRIPT.replace("{answer}", answer).replace("{before}", before).replace("{questions!r}", questions)
    code = code.replace("{seconds}", str(seconds)).replace("{waiting}", waiting).replace("{more}", more)
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


WHOSE = """
warmed = []
def warm():
    warmed.append(os.getpid())
def answer(data):
    if data == b"kill": os.kill(os.getppid(), signal.SIGKILL), time.sleep(60)
    if data == b"slow": time.sleep(.6)
    return json.dumps([os.getppid() == warmed[0], warmed]).encode()
"""


def test_what_a_child_needs_is_loaded_by_the_first_question_and_let_go_when_idle() -> None:
    before = (
        "pause = forks.Asker.ask\ndef ask(self, question, *rest):\n    if question.data == b'later': time.sleep(.6)\n"
    )
    before += "    return pause(self, question, *rest)\nforks.Asker.ask = ask"
    questions = "'a', 'slow', 'b', 'later', 'kill', 'c'"
    status, printed, _ = run(WHOSE, questions, before=before, more=", warm, .2")
    assert status == 7
    root, said = json.loads(printed)
    first, slow, second, later = (json.loads(text) for text in said[:4])
    assert [first[0], slow[0], later[0]] == [True] * 3  # a child of the process that loaded it
    assert len({root, *first[1]}) == 2  # not of the one that waits
    assert first[1] == slow[1] == second[1]  # a child that works for long keeps it
    assert later[1] != second[1]
    assert said[4] == "ended"
    assert json.loads(said[5])[1] != later[1]  # a new one, where it was killed


def test_a_question_larger_than_a_buffer_waits_for_the_imports() -> None:
    slow = "\ndef warm(): time.sleep(.5)\nbeats = []"
    _, printed, _ = run(
        "def answer(data): return str(len(data)).encode()" + slow,
        "'x' * 3_000_000,",
        waiting="beats.append(1) or len(beats) < 100",
        more=", warm",
    )
    assert json.loads(printed)[1] == ["3000000"]


KEEPS = """
from pathlib import Path
from consortia.deploy.shelf import Shelf
shelf = Shelf()
def answer(data):
    found = shelf.find(b"s" * 32, data * 32)
    held = sum(os.readlink(f"/proc/{os.getppid()}/fd/{fd}").startswith("/memfd:") for fd in
        os.listdir(f"/proc/{os.getppid()}/fd"))
    if found is None:
        shelf.put(b"s" * 32, data * 32, data)
    return json.dumps([found and Path(found).read_text(), held]).encode()
"""


def test_what_a_message_keeps_is_there_for_the_next_one_held_once_and_goes_with_the_zygote() -> None:
    before = "pause = forks.Asker.ask\ndef ask(self, question, *rest):\n    if said_last: time.sleep(.6)\n"
    before = before.replace("said_last", "question.data == b'z'") + "    return pause(self, question, *rest)\n"
    before += "forks.Asker.ask = ask"
    status, printed, errors = run(
        KEEPS, "'x', 'x', 'y', 'y', 'x', 'z', 'z'", before=before, more=", idle_seconds=.2, shelf=shelf"
    )
    assert status == 7, errors
    said = [json.loads(text) for text in json.loads(printed)[1]]
    assert said[:5] == [[None, 0], ["x", 1], [None, 1], ["y", 1], [None, 1]]
    assert said[5] == [None, 0]  # let go when idle
