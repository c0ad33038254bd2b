"""What is replaced in Flower is as it was when it was read; otherwise nothing is replaced."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import flwr.supernode.start_client_internal as node
import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from consortia.messages import flower_facts, flower_pace


def test_another_flower_keeps_its_own_pace(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from flwr.supercore.inflatable import inflatable_utils

    before = dict(inflatable_utils.pull_objects.__kwdefaults__)
    monkeypatch.setitem(flower_facts.KNOWN, f"{flower_pace._NODE}:_push_messages", "0" * 16)
    assert not flower_pace.speed_up(supernode=True)
    assert "_push_messages" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(flower_facts, "FLOWER", "1.40.0")
    assert not flower_pace.speed_up()
    assert "not 1.40.0" in caplog.text
    assert inflatable_utils.pull_objects.__kwdefaults__ == before


def test_the_switch_keeps_flowers_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(flower_pace.SWITCH, "1")
    assert not flower_pace.speed_up(supernode=True)


def test_what_it_replaces() -> None:
    # In a process of its own: this one goes on with Flower as it is.
    code = """
import time
from consortia.messages import flower_pace as pace
assert pace.speed_up(supernode=True)
from flwr.supercore.inflatable import inflatable_utils as u
from flwr.supernode import start_client_internal as node
assert u.pull_objects.__kwdefaults__["initial_backoff"] == .01
assert u.pull_and_inflate_object_from_tree.__kwdefaults__["initial_backoff"] == .01
assert time.sleep is not node.time.sleep
waits = []
time.sleep = waits.append
node.time.sleep(3); node.time.sleep(.5)
assert len(waits) == 2 and sum(waits) < 1, "the waits are as long as Flower's"
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_wait_is_a_share_of_the_time_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(flower_pace.time, "monotonic", lambda: now)
    rhythm = flower_pace.Rhythm(0.05, 1.0, 0.1)
    assert rhythm.next() == 0.05
    now = 103.0
    assert rhythm.next() == pytest.approx(0.3)  # a tenth of 3 s
    now = 200.0
    assert rhythm.next() == 1.0
    rhythm.restart()
    assert rhythm.next() == 0.05


def test_an_answer_left_behind_makes_no_later_one_late(monkeypatch: pytest.MonkeyPatch) -> None:
    # Flower's own state and its own way to push; the ClientApp answers while the SuperNode waits.
    state, store, hand = InMemoryNodeState(InMemoryObjectStore()), InMemoryObjectStore(), flower_pace.AtHand()
    waiting: list[Message] = []
    sent: list[str] = []

    def answer(message: Message) -> None:
        reply = Message(RecordDict(), reply_to=message)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        store.preregister(1, get_object_tree(reply))
        state.store_message(reply)

    def sleep(_: float) -> None:
        hand.check()
        if waiting:
            answer(waiting.pop())

    def send(reply: Message, *_: object) -> tuple[set[str], str]:
        sent.append(reply.metadata.reply_to_message_id)
        return set(), ""

    def turn(answered: bool = True, ttl: float = 60.0) -> str:
        message = Message(RecordDict(), 1, "train", ttl=ttl)
        message.metadata.__dict__.update(_message_id=message.object_id)
        hand.noting(lambda: (message, None))()
        state.store_message(message)
        state.record_message_processing_start(message.metadata.message_id)
        waiting.extend([message] if answered else [])
        hand.answer(node._push_messages, state=state, object_store=store, send=send, push_object=None)
        return message.metadata.message_id

    monkeypatch.setattr(node, "time", SimpleNamespace(sleep=sleep))
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    old = Message(RecordDict(), 1, "train")
    old.metadata.__dict__["_message_id"] = old.object_id
    answer(old)  # its run is over, so nobody looked for it
    first, second = turn(), turn()
    assert sent == [old.metadata.message_id, first, second]
    lost = turn(answered=False, ttl=0.05)  # its process died: it is given up when its time is over
    last = turn()
    assert sent[3:] == [last]
    assert lost not in state.msg_store


def test_a_wait_expects_what_the_last_three_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(flower_pace.time, "monotonic", lambda: now)
    rhythm = flower_pace.Rhythm(0.05, 1.0, 0.1, known=0.8)
    for took in (1.0, 0.5, 2.0):
        assert rhythm.next() == 0.05  # two are no rule yet
        now += took
        rhythm.end()
        rhythm.restart()
    assert rhythm.next() == pytest.approx(0.4)  # .8 of the shortest, .5
    now += 0.4
    assert rhythm.next() == 0.05  # from then on as if nothing were known
    now += 1.6
    assert rhythm.next() == pytest.approx(0.2)  # a tenth of 2 s
    rhythm.end()
    rhythm.restart()
    for _ in range(3):
        now += 60
        rhythm.end()
        rhythm.restart()
    assert rhythm.next() == 1.0  # never longer than the slowest
    for took in (0.0, 60.0, 60.0):  # one short wait, such as a second attempt, is enough to ask often again
        now += took
        rhythm.end()
        rhythm.restart()
    assert rhythm.next() == 0.05
