"""One coordinator per run folder."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from consortia import server_app
from consortia.common.errors import RunFailedError
from consortia.coordinator.run_lock import FILE, only_coordinator
from consortia.terms.scenario import load_scenario

HOLD = """
import sys
from pathlib import Path
from consortia.coordinator.run_lock import only_coordinator
with only_coordinator(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def _holder(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_coordinator_is_refused_and_a_killed_one_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    holder = _holder(tmp_path)
    try:
        with pytest.raises(RunFailedError, match=f"another one at work there .process {holder.pid} on"), \
             only_coordinator(tmp_path):  # fmt: skip
            pass
        assert str(holder.pid) in (tmp_path / FILE).read_text(encoding="utf-8")
    finally:
        holder.kill()
        holder.communicate()
    with caplog.at_level(logging.WARNING), only_coordinator(tmp_path):
        pass
    assert f"process {holder.pid} on" in caplog.text
    assert "ended without closing the run" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING), only_coordinator(tmp_path):  # the one before closed it
        pass
    assert caplog.text == ""


def test_a_coordinator_that_fails_closes_its_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="as planned"), only_coordinator(tmp_path):
        raise ValueError("as planned")
    assert (tmp_path / FILE).read_text(encoding="utf-8") == ""


def test_the_server_app_holds_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Looks:
        def __init__(self, *_: Any) -> None: ...

        def ask_who_can(self, *, resume: bool) -> None: ...

        def run(self, *, resume: bool) -> None:
            assert resume is False
            with pytest.raises(RunFailedError, match="wanted to be its only coordinator"), only_coordinator(tmp_path):
                pass
            seen.append("looked")

    monkeypatch.setattr(server_app, "Coordinator", Looks)
    monkeypatch.setattr(server_app, "GridExchange", lambda *_: None)
    monkeypatch.setattr(server_app.flower_pace, "speed_up", lambda: None)
    config = {"scenario": load_scenario("linear").to_json(), "run-id": "r", "out": str(tmp_path), "resume": False,
              "join-seconds": "1", "heads": ""}  # fmt: skip
    server_app.app(SimpleNamespace(), SimpleNamespace(run_config=config))  # type: ignore[arg-type]
    assert seen == ["looked"]
