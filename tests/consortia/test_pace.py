"""What is replaced in Flower is as it was when it was read; otherwise nothing is replaced."""

from __future__ import annotations

import subprocess
import sys

import pytest

from consortia.deploy import pace


def test_flower_is_the_one_that_is_known() -> None:
    # Red when Flower changes: read what changed in the named function, then write the new hash into pace.py.
    assert pace.differences() == []


def test_another_flower_keeps_its_own_pace(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from flwr.supercore.inflatable import inflatable_utils

    before = dict(inflatable_utils.pull_objects.__kwdefaults__)
    monkeypatch.setitem(pace._REPLACED, (pace._NODE, "_push_messages"), "0" * 64)
    assert not pace.speed_up()
    assert "_push_messages" in caplog.text
    monkeypatch.setattr(pace, "FLOWER", "1.40.0")
    assert "1.41.0" in pace.differences()[0]
    assert inflatable_utils.pull_objects.__kwdefaults__ == before


def test_the_switch_keeps_flowers_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pace.SWITCH, "1")
    assert not pace.speed_up(supernode=True)


def test_what_it_replaces() -> None:
    # In a process of its own: this one goes on with Flower as it is.
    code = """
import time
from consortia.deploy import pace
assert pace.speed_up(supernode=True)
from flwr.supercore.inflatable import inflatable_utils as u
from flwr.supernode import start_client_internal as node
assert u.pull_objects.__kwdefaults__["initial_backoff"] == .01
assert u.pull_and_inflate_object_from_tree.__kwdefaults__["initial_backoff"] == .01
started = time.monotonic(); node.time.sleep(3); node.time.sleep(.5)
assert time.monotonic() - started < 1, "the waits are as long as Flower's"
assert time.sleep is not node.time.sleep
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_wait_is_a_share_of_the_time_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    rhythm = pace.Rhythm(0.05, 1.0, 0.1)
    assert rhythm.next() == 0.05
    now = 103.0
    assert rhythm.next() == pytest.approx(0.3)  # a tenth of 3 s
    now = 200.0
    assert rhythm.next() == 1.0
    rhythm.restart()
    assert rhythm.next() == 0.05
